"""All that one gateway process owns, wired: pipeline, connections, background tasks. It knows no Serve."""

import asyncio
import random
import uuid
from collections.abc import Sequence

from starlette.types import ASGIApp

from deployments.attendance import Attendance, GatewayDirectory
from deployments.config import GatewayConfig, PoolConfig
from deployments.front import Front
from deployments.metrics import GatewayMetrics
from deployments.openai import RequestRules
from deployments.pipeline import Pipeline
from deployments.pool import Pool
from deployments.records import Records
from deployments.relay import Relay
from deployments.scrape import ScrapeServer
from deployments.watch import Watch
from policies.clock import Clock, SystemClock
from policies.identity import IdentityConfig, KeyRing
from policies.routes import Routes, Target


class GatewayRuntime:
    def __init__(
        self,
        config: GatewayConfig,
        identity: IdentityConfig,
        pools: Sequence[PoolConfig],
        directory: GatewayDirectory,
        clock: Clock | None = None,
        *,
        tells_request_id: bool = False,
    ) -> None:
        clock = clock or SystemClock()
        self.id = uuid.uuid4().hex[:12]
        self.metrics = GatewayMetrics()
        self.records = Records(self.metrics, clock)
        self.pools = {pool.name: self._pool(pool, config, clock) for pool in pools}
        self.attendance = Attendance(self.id, directory, self.pools, self.metrics, clock)
        self.relay = Relay(
            silence_s=config.engine_silence_s,
            buffer_bytes=int(config.client_buffer_kib * 1024),
            secret=lambda: self.attendance.secrets[0],
            clock=clock,
        )
        self.watch = Watch(heartbeat_s=config.heartbeat_s, stall_s=config.client_stall_s, clock=clock)
        self._scrape = ScrapeServer(self.metrics.render, lambda: self.attendance.secrets)
        self._tasks: list[asyncio.Task[None]] = []
        pipeline = Pipeline(
            gateway_id=self.id,
            keys=KeyRing(identity.keys),
            rules=RequestRules.of(config),
            routes=routes_of(pools),
            pools=self.pools,
            relay=self.relay,
            records=self.records,
            watch=self.watch,
            clock=clock,
            max_body_bytes=int(config.max_body_mib * 2**20),
            max_wait_s=config.max_wait_s,
        )
        self.app: ASGIApp = Front(
            pipeline,
            self.metrics,
            snapshot=lambda: self.attendance.snapshot,
            secrets=lambda: self.attendance.secrets,
            deadline_s=config.deadline_s,
            tells_request_id=tells_request_id,
        )

    async def start(self, host: str) -> None:
        """Joins the cluster; `host`: the address of this node on which the metrics port listens."""
        await self.attendance.start(await self._scrape.start(host))
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.attendance.run()), loop.create_task(self.watch.run())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._scrape.stop()
        await self.relay.close()

    def _pool(self, pool: PoolConfig, config: GatewayConfig, clock: Clock) -> Pool:
        # S311: the choice between two replicas needs no secrecy.
        rng = random.Random()  # noqa: S311
        return Pool(pool.name, self.id, max_waiting=config.max_waiting, clock=clock, rng=rng)


def routes_of(pools: Sequence[PoolConfig]) -> Routes:
    bases = [Target(pool.name, pool.name) for pool in pools]
    adapters = [Target(adapter.name, pool.name, adapter.name) for pool in pools for adapter in pool.adapters]
    return Routes(bases + adapters)
