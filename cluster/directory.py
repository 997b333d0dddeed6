"""The Directory: a detached actor that knows who is alive, how loaded, and what is resident. Soft state.

`Directory` is plain asyncio and runs in tests as it is; `connect` makes it an actor, or finds the one that is there.
Its name carries the version of its protocol: after an upgrade the new code talks to an actor of its own.
"""

import asyncio
import secrets as entropy
import uuid
from contextlib import suppress
from functools import partial
from typing import Any

import ray
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from cluster.telemetry import prepare
from deployments.scrape import ScrapeServer
from policies.clock import Clock, SystemClock
from policies.replicas import Replica
from policies.roster import Gateway, Roster, Snapshot

NAMESPACE = "themis"
NAME = "directory.v1"
_SECRET_KEY = b"themis:secret"
_LOAD_S = 0.25  # news of load alone are passed on this often; who came or went, at once


class Directory:
    """Mutable state: `_roster`, `_changed` and `_told_version`; changed on one event loop."""

    def __init__(self, secrets: tuple[str, ...], clock: Clock | None = None) -> None:
        self._secrets = secrets
        self._clock = clock or SystemClock()
        self._roster = Roster(uuid.uuid4().hex)
        self._changed = asyncio.Event()
        self._scrape: ScrapeServer | None = None
        self._told_version = 0  # who has seen this version knows who is there

    async def listen(self, host: str) -> None:
        """Opens a port for its own metrics."""
        registry = CollectorRegistry()
        for name, words in (("replicas", "Replicas that report."), ("gateways", "Gateways that report.")):
            gauge = Gauge(f"themis_directory_{name}", words, registry=registry)
            gauge.set_function(partial(self._count, name))
        self._scrape = ScrapeServer(lambda: generate_latest(registry), lambda: self._secrets)
        self._roster.address = await self._scrape.start(host)

    async def close(self) -> None:
        """Closes that port."""
        if self._scrape:
            await self._scrape.stop()

    async def secrets(self) -> tuple[str, ...]:
        return self._secrets

    async def report(self, replica: Replica) -> tuple[str, ...]:
        now = self._clock.now()
        if self._roster.report(replica, now) | self._roster.expire(now):
            self._tell()
        return self._secrets

    async def leave(self, replica_id: str) -> None:
        if self._roster.leave(replica_id):
            self._tell()

    async def watch(self, gateway: Gateway, era: str, version: int) -> Snapshot:
        """At once when `era` is another, or replicas came or went; else after a short while, with their newest load."""
        self._roster.attend(gateway, self._clock.now())
        if era == self._roster.era and version >= self._told_version:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOAD_S):
                    await self._changed.wait()
        self._roster.expire(self._clock.now())
        return self._roster.snapshot()

    async def snapshot(self) -> Snapshot:
        """What is known now, for people and tools."""
        self._roster.expire(self._clock.now())
        return self._roster.snapshot()

    def _count(self, name: str) -> int:
        return len(getattr(self._roster.snapshot(), name))

    def _tell(self) -> None:
        self._told_version = self._roster.snapshot().version
        self._changed.set()
        self._changed = asyncio.Event()


class _DirectoryActor(Directory):
    def __init__(self) -> None:
        prepare()
        super().__init__((cluster_secret(),))

    async def start(self) -> None:
        if not self._roster.address:
            await self.listen(ray.util.get_node_ip_address())


class DirectoryClient:
    """The actor's methods as plain coroutines; what deployments see of it."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def secrets(self) -> tuple[str, ...]:
        await self._actor.start.remote()
        result: tuple[str, ...] = await self._actor.secrets.remote()
        return result

    async def report(self, replica: Replica) -> tuple[str, ...]:
        result: tuple[str, ...] = await self._actor.report.remote(replica)
        return result

    async def leave(self, replica_id: str) -> None:
        await self._actor.leave.remote(replica_id)

    async def watch(self, gateway: Gateway, era: str, version: int) -> Snapshot:
        result: Snapshot = await self._actor.watch.remote(gateway, era, version)
        return result

    async def snapshot(self) -> Snapshot:
        result: Snapshot = await self._actor.snapshot.remote()
        return result


def connect() -> DirectoryClient:
    """Gets or creates the cluster's Directory."""
    actor = (
        ray.remote(_DirectoryActor)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=10_000,
        )
        .remote()
    )
    return DirectoryClient(actor)


def cluster_secret() -> str:
    """Made once per cluster and kept in Ray's GCS: a restarted Directory finds the one that replicas know."""
    _internal_kv_put(_SECRET_KEY, entropy.token_urlsafe(32).encode(), overwrite=False)
    secret = _internal_kv_get(_SECRET_KEY)
    if secret is None:
        raise RuntimeError("Ray's GCS did not keep the cluster secret.")
    return bytes(secret).decode()
