"""How many calls a replica has at once: slots, an ordered queue before them, and what each gateway may send.

One event loop uses it. Order is policies.order's, credit is policies.replicas'.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from policies.clock import Clock
from policies.errors import OverCredit
from policies.order import WaitingList
from policies.replicas import credit

_KNOWN_S = 5.0  # a gateway that has sent nothing for so long no longer shares the free slots


class Admission:
    """Mutable state: `_running`, `_held` (calls here by gateway), `_seen` (when each gateway last sent), `_queue`;
    changed in `enter` and `_release` only.
    """

    def __init__(self, slots: int, queue: int, clock: Clock) -> None:
        self.slots = slots
        self._clock = clock
        self._running = 0
        self._held: Counter[str] = Counter()
        self._seen: dict[str, float] = {}
        self._queue: WaitingList[asyncio.Future[None]] = WaitingList(queue)

    def __repr__(self) -> str:
        return f"<Admission [calls: {self._running}/{self.slots} running, {self.waiting}/{self._queue.bound} waiting]>"

    @property
    def capacity(self) -> int:
        return self.slots + self._queue.bound

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def credit(self, gateway: str) -> int:
        """Calls that this gateway may have here at once, those it has included."""
        return credit(self._held[gateway], self._held.total(), self.capacity, len(self._gateways() | {gateway}))

    def credits(self) -> dict[str, int]:
        return {gateway: self.credit(gateway) for gateway in self._gateways()}

    @asynccontextmanager
    async def enter(self, gateway: str, key: float) -> AsyncGenerator[None, None]:
        """A slot for one call; lower keys first. Raises OverCredit at once when slots and queue are full."""
        self._seen[gateway] = self._clock.now()
        if self._running >= self.slots and self._queue.full:
            raise OverCredit("This replica has no room.")
        self._held[gateway] += 1
        try:
            await self._slot(key)
            try:
                yield
            finally:
                self._running -= 1
                self._release()
        finally:
            self._held[gateway] -= 1

    async def _slot(self, key: float) -> None:
        if self._running < self.slots and not len(self._queue):
            self._running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket = self._queue.push(turn, key)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it left in the very turn of the loop in which its turn came
                self._running -= 1
                self._release()
            raise
        finally:
            self._queue.withdraw(ticket)

    def _release(self) -> None:
        while self._running < self.slots and (first := self._queue.first()):
            self._queue.withdraw(first)
            if not first.item.done():
                self._running += 1
                first.item.set_result(None)

    def _gateways(self) -> set[str]:
        recent = self._clock.now() - _KNOWN_S
        for gateway in [name for name, seen in self._seen.items() if seen < recent and not self._held[name]]:
            del self._seen[gateway], self._held[gateway]
        return set(self._seen)
