"""Adapter slots: which adapters can run in a batch now, and which is given up for another. Knows no weights."""

from collections import Counter


class Slots:
    """Mutable state: `_ready` (when each resident adapter is loaded, least recently used first) and `_users`."""

    def __init__(self, count: int, load_s: float) -> None:
        self._count = count
        self._load_s = load_s
        self._ready: dict[str, float] = {}
        self._users: Counter[str] = Counter()

    def resident(self) -> list[str]:
        return list(self._ready)

    def ensure(self, version: str, now: float) -> float | None:
        """When the adapter is ready, its load begun if need be; None while every slot is in use or loading."""
        if version in self._ready:
            return self._ready[version]
        if len(self._ready) >= self._count:
            unused = (name for name, ready in self._ready.items() if not self._users[name] and ready <= now)
            victim = next(unused, None)
            if victim is None:
                return None
            del self._ready[victim]
        self._ready[version] = now + self._load_s
        return self._ready[version]

    def acquire(self, version: str) -> None:
        self._users[version] += 1
        self._ready[version] = self._ready.pop(version)

    def release(self, version: str) -> None:
        self._users[version] -= 1

    def drop(self, version: str) -> None:
        """Gives the slot up once nobody runs with it."""
        if not self._users[version]:
            self._ready.pop(version, None)

    def next_ready(self, now: float) -> float | None:
        return min((ready for ready in self._ready.values() if ready > now), default=None)
