"""One replica's engine, shell and port, on an event loop of their own in one long-lived thread.

Serve's own loop must never wait for an engine, and an engine's children live only as long as the thread that made them
(deployments.engines.lifeline). It knows no Ray: tests and laptops run it as it is.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

import uvicorn
import uvloop

from deployments.admission import Admission
from deployments.config import PoolConfig
from deployments.engines.base import Engine, EngineDied
from deployments.loading import engine_for, load_adapters
from deployments.metrics import ShellMetrics
from deployments.shell import Shell
from policies.clock import Clock, SystemClock
from policies.replicas import Replica

Result = TypeVar("Result")
_log = logging.getLogger("themis.replica")
_KEEP_ALIVE_S = 75  # above the gateways', so that they close first
_LAST_WORDS_S = 5.0  # for answers that are cut at the deadline to be closed


class _QuietServer(uvicorn.Server):
    """uvicorn in a thread: signals are the main thread's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class ReplicaServer:
    """Mutable state: `_adapters`, `_dead`; changed in `start`, `check_health` and `drain` only."""

    def __init__(self, pool: PoolConfig, replica_id: str, node: str, host: str, clock: Clock | None = None) -> None:
        self.pool = pool
        self.id = replica_id
        self.node = node
        self.secrets: tuple[str, ...] = ()
        self._clock = clock or SystemClock()
        self._socket = _listen(host)
        self.address = f"http://{host}:{self._socket.getsockname()[1]}"
        self._engine: Engine = engine_for(pool)
        self._adapters: dict[str, str] = {}
        self._dead = False
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine", daemon=True)

    def __repr__(self) -> str:
        return f"<ReplicaServer {self.id} of {self.pool.name} at {self.address} {self._shell.admission!r}>"

    async def start(self) -> None:
        """Returns when calls are answered. Raises what kept the engine from starting."""
        self._thread.start()
        await self._over_there(self._start())

    async def _start(self) -> None:
        async with asyncio.timeout(self.pool.start_s):
            await self._engine.start()
            self._adapters = await load_adapters(self.pool, self._engine)
        admission = Admission(self._engine.limits.max_running, self.pool.queue, self._clock)
        self._shell = Shell(
            self._engine, admission, secrets=lambda: self.secrets, metrics=ShellMetrics(), clock=self._clock
        )
        config = uvicorn.Config(
            self._shell,
            lifespan="off",
            access_log=False,
            log_config=None,
            timeout_keep_alive=_KEEP_ALIVE_S,
            http="httptools",
            ws="none",
            server_header=False,
            date_header=False,
        )
        self._server = _QuietServer(config)
        self._serving = asyncio.get_running_loop().create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)

    def report(self) -> Replica:
        """What the Directory is told. Plain numbers of the other thread: each is right, their moments may differ."""
        load, admission = self._engine.load(), self._shell.admission
        return Replica(
            id=self.id,
            pool=self.pool.name,
            address=self.address,
            slots=admission.capacity,
            max_model_len=self._engine.limits.max_model_len,
            node=self.node,
            running=admission.running,
            waiting=admission.waiting + load.waiting,
            kv_use=round(load.kv_use, 3),
            draining=self._shell.draining,
            healthy=not self._dead,
            adapters=dict(self._adapters),
            credits=admission.credits(),
        )

    async def check_health(self) -> None:
        """Raises EngineDied."""
        try:
            await self._over_there(self._engine.check_health())
        except EngineDied:
            self._dead = True
            raise

    async def drain(self) -> int:
        """Takes no more calls, waits for those that run; returns how many were ended at the pool's deadline."""
        self._shell.draining = True
        return await self._over_there(self._shell.drain(self.pool.drain_s))

    async def stop(self) -> None:
        """Ends the engine with all its processes, and the thread."""
        if self._thread.is_alive():
            await self._over_there(self._stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            await asyncio.to_thread(self._thread.join)
            self._loop.close()
        self._socket.close()

    async def _stop(self) -> None:
        if hasattr(self, "_serving"):
            self._server.should_exit = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._serving, _LAST_WORDS_S)
        await self._engine.stop()

    async def _over_there(self, work: Coroutine[Any, Any, Result]) -> Result:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


def _listen(host: str) -> socket.socket:
    # NOTE: with the protocol left open, asyncio does not switch Nagle's algorithm off, and answers take 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind((host, 0))
    return listener


def _new_loop() -> asyncio.AbstractEventLoop:
    return uvloop.new_event_loop()
