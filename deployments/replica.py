"""The Replica deployment: Serve starts, checks, drains and stops a ReplicaServer through it; tokens pass it by."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import ray
from ray import serve

from deployments.config import PoolConfig
from deployments.server import ReplicaServer
from policies.clock import SystemClock
from policies.replicas import Replica as Report

_log = logging.getLogger("themis.replica")
_REPORT_S = 0.25
_ALIVE_S = 1.0  # well below the silence after which the Directory forgets a replica
_RETRY_S = 0.5


class ReplicaDirectory(Protocol):
    """What a replica asks of the Directory."""

    async def secrets(self) -> tuple[str, ...]: ...

    async def report(self, replica: Report) -> tuple[str, ...]:
        """Tells how this replica is; returns the cluster secrets that are valid now."""
        ...

    async def leave(self, replica_id: str) -> None: ...


class Replica:
    """Serve's side of one replica. Serve is blind to relayed calls, so `__del__` is where they are waited for."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, pool: PoolConfig, connect: Callable[[], ReplicaDirectory], prepare: Callable[[], None]
    ) -> None:
        prepare()
        self._directory = connect()
        context = serve.get_replica_context()
        node = ray.get_runtime_context().get_node_id()
        self._server = ReplicaServer(pool, context.replica_id.unique_id, node, ray.util.get_node_ip_address())
        self._server.secrets = await self._directory.secrets()
        try:
            await self._server.start()
        except BaseException:
            await self._server.stop()
            raise
        self._news = asyncio.Event()  # something that gateways should know at once
        self._reporting = asyncio.get_running_loop().create_task(self._report())

    async def check_health(self) -> None:
        await self._server.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        report = self._server.report()
        return {"calls": float(report.running + report.waiting), "slots": float(report.slots)}

    async def __del__(self) -> None:
        server = getattr(self, "_server", None)
        if server is None or not hasattr(self, "_reporting"):
            return
        draining = asyncio.ensure_future(server.drain())
        await asyncio.sleep(0)  # now it refuses calls: gateways that do not know yet try elsewhere
        self._news.set()
        cut = await draining
        if cut:
            _log.warning("replica %s: %d calls were ended at the drain's deadline", server.id, cut)
        self._reporting.cancel()
        await self._directory.leave(server.id)
        await server.stop()

    async def _report(self) -> None:
        """Tells the Directory what changed, and at least once a while that it lives: who is silent is forgotten."""
        told, told_at = None, 0.0
        clock = SystemClock()
        while True:
            try:
                await self._server.check_health()
            except Exception:  # noqa: BLE001 - Serve's own health check acts on it; here it is only reported
                _log.warning("replica %s: the engine is dead", self._server.id)
            report, now = self._server.report(), clock.now()
            try:
                if report != told or now - told_at > _ALIVE_S:
                    self._server.secrets = await self._directory.report(report)
                    told, told_at = report, now
            except Exception as error:  # noqa: BLE001 - the Directory restarts by itself; calls go on meanwhile
                _log.warning("the Directory does not answer: %r", error)
                await asyncio.sleep(_RETRY_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(_REPORT_S):
                    await self._news.wait()
            self._news.clear()
