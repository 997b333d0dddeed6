"""Who is alive: the Directory's state, pure. Soft: replicas and gateways rebuild it with their next reports."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from policies.replicas import Replica


@dataclass(frozen=True, slots=True)
class Gateway:
    """address: `host:port` where this gateway's own /metrics answers; waiting, active: its calls."""

    id: str
    address: str
    waiting: Mapping[str, int]
    active: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known at one version. Versions of one Directory only grow; another `era` is another Directory."""

    era: str
    version: int
    replicas: tuple[Replica, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    address: str = ""  # `host:port` of the Directory's own metrics


class Roster:
    """Mutable state: `_replicas` and `_gateways` with the time of their last report, and `_version`."""

    def __init__(self, era: str, *, silence_s: float = 3.0) -> None:
        self.era = era
        self.address = ""
        self._silence_s = silence_s
        self._replicas: dict[str, tuple[Replica, float]] = {}
        self._gateways: dict[str, tuple[Gateway, float]] = {}
        self._version = 0

    def report(self, replica: Replica, now: float) -> bool:
        """Takes a replica's report. True when gateways should know at once: it is new, or may no longer be chosen."""
        known = self._replicas.get(replica.id)
        self._replicas[replica.id] = (replica, now)
        if known is None or replace(known[0], **_load(replica)) != replica:
            self._version += 1
            return True
        if known[0] != replica:
            self._version += 1
        return False

    def leave(self, replica_id: str) -> bool:
        """Forgets a replica that says good-bye."""
        gone = self._replicas.pop(replica_id, None) is not None
        self._version += gone
        return gone

    def attend(self, gateway: Gateway, now: float) -> None:
        """Notes that a gateway is there."""
        if gateway.id not in self._gateways:
            self._version += 1
        self._gateways[gateway.id] = (gateway, now)

    def expire(self, now: float) -> bool:
        """Forgets who has been silent for too long. True when that was a replica."""
        dead = [key for key, (_, seen) in self._replicas.items() if now - seen > self._silence_s]
        gone = [key for key, (_, seen) in self._gateways.items() if now - seen > self._silence_s]
        for key in dead:
            del self._replicas[key]
        for key in gone:
            del self._gateways[key]
        self._version += bool(dead or gone)
        return bool(dead)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            era=self.era,
            version=self._version,
            replicas=tuple(replica for replica, _ in self._replicas.values()),
            gateways=tuple(gateway for gateway, _ in self._gateways.values()),
            address=self.address,
        )


def _load(replica: Replica) -> dict[str, Any]:
    """The fields that change all the time: no reason to wake every gateway."""
    names = ("running", "waiting", "kv_use", "credits")
    return {name: getattr(replica, name) for name in names}
