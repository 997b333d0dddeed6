"""A gateway's tie to the Directory: it reports itself and takes the newest snapshot into its pools."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Protocol

from deployments.metrics import GatewayMetrics
from deployments.pool import Pool
from policies.clock import Clock
from policies.replicas import Replica
from policies.roster import Gateway, Snapshot

_log = logging.getLogger("themis.gateway")
_RETRY_S = 0.5


class GatewayDirectory(Protocol):
    """What a gateway asks of the Directory."""

    async def secrets(self) -> tuple[str, ...]:
        """The cluster secrets that are valid now, the newest first."""
        ...

    async def watch(self, gateway: Gateway, era: str, version: int) -> Snapshot:
        """A snapshot: at once when replicas came or went since that version, else after a short while."""
        ...


class Attendance:
    """Mutable state: `snapshot` and `secrets`; changed in `start` and `_once` only."""

    def __init__(
        self,
        gateway_id: str,
        directory: GatewayDirectory,
        pools: Mapping[str, Pool],
        metrics: GatewayMetrics,
        clock: Clock,
    ) -> None:
        self._gateway_id = gateway_id
        self._directory = directory
        self._pools = pools
        self._metrics = metrics
        self._clock = clock
        self._address = ""
        self._heard_at = clock.now()
        self.snapshot = Snapshot("", 0)
        self.secrets: tuple[str, ...] = ()
        metrics.snapshot_age.set_function(lambda: clock.now() - self._heard_at)
        for pool in pools.values():
            metrics.waiting.labels(pool.name).set_function(partial(getattr, pool, "waiting"))
            metrics.replicas.labels(pool.name).set_function(partial(getattr, pool, "replicas"))

    async def start(self, address: str) -> None:
        """Joins: from here on calls can be served. `address`: where this gateway's own metrics are."""
        self._address = address
        self.secrets = await self._directory.secrets()
        await self._once()

    async def run(self) -> None:
        """Stays in touch, until cancelled. While the Directory is away the last snapshot serves."""
        while True:
            try:
                await self._once()
            except Exception as error:  # noqa: BLE001 - whatever keeps the Directory from answering, calls go on
                _log.warning("the Directory does not answer: %r", error)
                await asyncio.sleep(_RETRY_S)

    async def _once(self) -> None:
        snapshot = await self._directory.watch(self._me(), self.snapshot.era, self.snapshot.version)
        if snapshot.era != self.snapshot.era:
            self.secrets = await self._directory.secrets()
        self._heard_at = self._clock.now()
        self.snapshot = snapshot
        by_pool: dict[str, list[Replica]] = defaultdict(list)
        for replica in snapshot.replicas:
            by_pool[replica.pool].append(replica)
        for name, pool in self._pools.items():
            pool.update(by_pool[name], len(snapshot.gateways))

    def _me(self) -> Gateway:
        waiting = {name: pool.waiting for name, pool in self._pools.items()}
        return Gateway(self._gateway_id, self._address, waiting, sum(pool.active for pool in self._pools.values()))
