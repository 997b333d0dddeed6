"""The whole path without Ray: real gateway, shells and simulated engines over real sockets, one Directory between."""

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import psutil
import uvicorn
import uvloop

from cluster.directory import Directory
from deployments.config import Fault, GatewayConfig, PoolConfig, SimulatedEngine
from deployments.runtime import GatewayRuntime
from deployments.server import ReplicaServer
from policies.identity import IdentityConfig, KeyConfig, digest, new_key
from policies.replicas import Replica

SECRET = "the-cluster-secret"
_REPORT_S = 0.05


# libuv opens a pipe with the first loop that runs in a process, and keeps it.
with contextlib.closing(uvloop.new_event_loop()) as _first:
    _first.run_until_complete(asyncio.sleep(0))


def simulated(name: str = "sim", **engine: object) -> PoolConfig:
    """A pool on the simulated engine; `engine` are fields of SimulatedEngine."""
    return PoolConfig(name=name, engine=SimulatedEngine.model_validate({"decode_ms": 2.0, **engine}))


async def until(condition: Callable[[], bool], what: str, within_s: float = 10.0) -> None:
    """Waits for a condition that another thread or process makes true."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - the condition lives elsewhere and tells nobody
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {within_s} s: {what}") from None


@dataclass(slots=True)
class Path:
    """`url` ends with /v1; `key` opens it."""

    url: str
    key: str
    directory: Directory
    gateway: GatewayRuntime
    servers: list[ReplicaServer] = field(default_factory=list)
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    async def script(self, server: ReplicaServer, faults: Sequence[Fault]) -> None:
        """Replaces the faults of one simulated replica."""
        body = [fault.model_dump() for fault in faults]
        url = f"{server.address}/simulated/faults"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=body, headers={"x-themis-secret": SECRET}) as answer,
        ):
            assert answer.status < 300, await answer.text()

    async def at_rest(self) -> None:
        """No call, slot, waiting place or engine request is left anywhere."""
        await until(lambda: self.gateway.records.active == 0, "the gateway's records are closed")
        await until(
            lambda: all(pool.active == pool.waiting == 0 for pool in self.gateway.pools.values()),
            f"no slot is held: {list(self.gateway.pools.values())}",
        )
        for server in self.servers:
            await until(lambda server=server: idle(server), f"{server!r} is idle")  # type: ignore[misc]


def idle(server: ReplicaServer) -> bool:
    load, report = server._engine.load(), server.report()
    return load.running == load.waiting == report.running == report.waiting == server._shell.active == 0


@asynccontextmanager
async def running(
    pools: Sequence[PoolConfig],
    *,
    replicas: int = 1,
    gateway: GatewayConfig | None = None,
    in_processes: bool = False,
    closes_all: bool = True,
) -> AsyncGenerator[Path, None]:
    """Everything up, with `replicas` of each pool; everything down at the end, and checked to be at rest before.

    `closes_all` says whether the engine leaves no descriptor behind; vLLM keeps some for the life of its process.
    """
    tasks, descriptors = len(asyncio.all_tasks()), psutil.Process().num_fds()
    directory = Directory((SECRET,))
    key = new_key()
    identity = IdentityConfig(keys=(KeyConfig(name="test", sha256=digest(key), tenant="acme"),))
    async with AsyncExitStack() as stack:
        servers, processes = [], []
        for pool in pools:
            for number in range(replicas):
                name = f"{pool.name}-{number}"
                if in_processes:
                    processes.append(await stack.enter_async_context(_process(pool, name, directory)))
                else:
                    servers.append(await stack.enter_async_context(_server(pool, name, directory)))
        runtime = GatewayRuntime(gateway or GatewayConfig(), identity, pools, directory, tells_request_id=True)
        await runtime.start("127.0.0.1")
        stack.push_async_callback(runtime.stop)
        url = await stack.enter_async_context(_front(runtime))
        path = Path(f"{url}/v1", key, directory, runtime, servers, processes)
        yield path
        await path.at_rest()
    await until(lambda: len(asyncio.all_tasks()) <= tasks, "no task is left")
    gc.collect()
    await until(lambda: not closes_all or psutil.Process().num_fds() <= descriptors, "no descriptor is left")


@asynccontextmanager
async def _server(pool: PoolConfig, name: str, directory: Directory) -> AsyncGenerator[ReplicaServer, None]:
    server = ReplicaServer(pool, name, "node", "127.0.0.1")
    server.secrets = (SECRET,)
    await server.start()
    reporting = asyncio.create_task(_report(directory, server.report))
    await directory.report(server.report())
    try:
        yield server
    finally:
        reporting.cancel()
        await asyncio.gather(reporting, return_exceptions=True)
        await directory.leave(server.id)
        await server.stop()


@asynccontextmanager
async def _process(
    pool: PoolConfig, name: str, directory: Directory
) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """A replica in a process of its own, to be killed. It reports through us, as long as it lives."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.path.replica", pool.model_dump_json(), name, SECRET, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    report = Replica(**json.loads(await process.stdout.readline()))

    def alive() -> Replica:
        if process.returncode is not None:
            raise ProcessLookupError
        return report

    reporting = asyncio.create_task(_report(directory, alive))
    await directory.report(report)
    try:
        yield process
    finally:
        reporting.cancel()
        await asyncio.gather(reporting, return_exceptions=True)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()


async def _report(directory: Directory, report: Callable[[], Replica]) -> None:
    while True:
        await directory.report(report())
        await asyncio.sleep(_REPORT_S)


@asynccontextmanager
async def _front(runtime: GatewayRuntime) -> AsyncGenerator[str, None]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(runtime.app, lifespan="off", log_config=None, http="httptools", ws="none")
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started, "the front listens")
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()
