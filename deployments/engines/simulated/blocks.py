"""The KV cache as a count of blocks: equal prompt blocks are shared, unused ones stay until room is needed.

Knows no tokens: a full block is a key that names everything up to its end.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field


def block_keys(root: int, ids: Sequence[int], size: int) -> list[int]:
    """Keys of the whole blocks of `ids`; each covers all that came before it."""
    keys: list[int] = []
    for end in range(size, len(ids) + 1, size):
        root = hash((root, *ids[end - size : end]))
        keys.append(root)
    return keys


@dataclass(slots=True)
class Holding:
    """Blocks of one sequence: shared ones by key, and unshared ones by number."""

    shared: list[int] = field(default_factory=list)
    own: int = 0

    def __len__(self) -> int:
        return len(self.shared) + self.own


class Blocks:
    """Mutable state: `_users` (shared blocks in use), `_idle` (shared blocks nobody uses, oldest first), `_own`."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._users: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._own = 0

    @property
    def used(self) -> int:
        return len(self._users) + self._own

    @property
    def use(self) -> float:
        """The used share, 0 to 1."""
        return self.used / self.capacity

    @property
    def idle(self) -> int:
        return len(self._idle)

    def hits(self, keys: Sequence[int]) -> int:
        """How many blocks at the start are there already."""
        for place, key in enumerate(keys):
            if key not in self._users and key not in self._idle:
                return place
        return len(keys)

    def take(self, keys: Sequence[int], own: int) -> Holding | None:
        """The blocks of `keys`, shared, and `own` further ones; None, and nothing taken, when they do not fit."""
        fresh = sum(key not in self._users for key in keys)
        if self.used + fresh + own > self.capacity:
            return None
        for key in keys:
            self._users[key] = self._users.get(key, 0) + 1
            self._idle.pop(key, None)
        self._own += own
        self._evict()
        return Holding(list(keys), own)

    def grow(self, holding: Holding) -> bool:
        if self.used >= self.capacity:
            return False
        self._own += 1
        holding.own += 1
        self._evict()
        return True

    def share(self, holding: Holding, key: int) -> None:
        """An own block became full: others may use it. Where its key exists already, it stays an own one."""
        if key in self._users or key in self._idle:
            return
        holding.own -= 1
        self._own -= 1
        holding.shared.append(key)
        self._users[key] = 1

    def release(self, holding: Holding) -> None:
        self._own -= holding.own
        # The end of a prompt is evicted before its start, which more prompts share.
        for key in reversed(holding.shared):
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                self._idle[key] = None
        holding.shared, holding.own = [], 0

    def _evict(self) -> None:
        while self.used + len(self._idle) > self.capacity:
            self._idle.popitem(last=False)
