"""One gateway's view of one model's replicas: who waits here, and who holds a slot where.

All assignment happens in one synchronous function, `_assign`, after anything changed: a call came, left or ended, or a
newer snapshot arrived. It decides nothing itself: order is policies.order's, the choice policies.replicas'.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from policies.clock import Clock
from policies.errors import NoReplica, QueueFull, WaitedTooLong
from policies.order import Ticket, WaitingList
from policies.replicas import Candidate, Replica, choose

_SUSPECT_S = 2.0  # a replica that did not answer is left alone for so long; a dead one is out of the Directory by then


@dataclass(slots=True)
class Seat:
    """What this gateway keeps of one replica. `credit` is the newest word on how many calls it may have there."""

    replica: Replica
    credit: int
    in_flight: int = 0
    suspect_until: float = 0.0


@dataclass(slots=True)
class _Waiter:
    adapter: str | None
    tried: Collection[str]
    seat: "asyncio.Future[Seat]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Pool:
    """Mutable state: `_seats` and `_waiting`; changed in `slot`, `update` and `_assign` only, on one event loop."""

    def __init__(self, name: str, gateway_id: str, *, max_waiting: int, clock: Clock, rng: random.Random) -> None:
        self.name = name
        self._gateway_id = gateway_id
        self._clock = clock
        self._rng = rng
        self._seats: dict[str, Seat] = {}
        self._waiting: WaitingList[_Waiter] = WaitingList(max_waiting)

    def __repr__(self) -> str:
        return (
            f"<Pool {self.name} [calls: {self.active} active, {self.waiting} waiting | replicas: {len(self._seats)}]>"
        )

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def active(self) -> int:
        return sum(seat.in_flight for seat in self._seats.values())

    @property
    def replicas(self) -> int:
        return len(self._seats)

    @property
    def max_model_len(self) -> int | None:
        """Tokens that every replica takes; None while none has said."""
        return min(
            (seat.replica.max_model_len for seat in self._seats.values() if seat.replica.max_model_len), default=None
        )

    @property
    def ready(self) -> bool:
        """Whether any replica serves."""
        return any(seat.replica.healthy and not seat.replica.draining for seat in self._seats.values())

    @asynccontextmanager
    async def slot(
        self, adapter: str | None, tried: Collection[str], key: float, wait_until: float
    ) -> AsyncGenerator[Seat, None]:
        """A place for one call at one replica, given back at the end.

        Calls with a lower `key` go first. A call that failed elsewhere (`tried`) keeps its key and passes the bound.
        Raises QueueFull at once when too many wait, and WaitedTooLong or NoReplica at `wait_until`.
        """
        seat = await self._seat(_Waiter(adapter, tried), key, wait_until)
        try:
            yield seat
        finally:
            seat.in_flight -= 1
            self._assign()

    def update(self, replicas: Iterable[Replica], gateways: int) -> None:
        """Takes what a newer snapshot says of this pool."""
        seats = {}
        for replica in replicas:
            share = -(-replica.slots // max(1, gateways))
            credit = replica.credits.get(self._gateway_id, share)
            seat = self._seats.get(replica.id) or Seat(replica, credit)
            seat.replica, seat.credit = replica, credit
            seats[replica.id] = seat
        self._seats = seats
        self._assign()

    def suspect(self, seat: Seat) -> None:
        """Leaves a replica alone that did not answer."""
        seat.suspect_until = self._clock.now() + _SUSPECT_S

    async def _seat(self, waiter: _Waiter, key: float, wait_until: float) -> Seat:
        if not self._waiting.first() and (seat := self._choose(waiter)):
            seat.in_flight += 1
            return seat
        if self._waiting.full and not waiter.tried:
            raise QueueFull(f"{len(self._waiting)} calls wait for `{self.name}`.", retry_after_s=1.0)
        ticket = self._waiting.push(waiter, key)
        try:
            async with asyncio.timeout(max(0.0, wait_until - self._clock.now())):
                return await waiter.seat
        except TimeoutError:
            self._return_unused(waiter)
            raise self._too_late(waiter) from None
        except asyncio.CancelledError:
            self._return_unused(waiter)
            raise
        finally:
            self._waiting.withdraw(ticket)

    def _return_unused(self, waiter: _Waiter) -> None:
        """A call that left, or whose time was up, in the very turn of the loop in which it was given a seat."""
        if waiter.seat.done() and not waiter.seat.cancelled():
            waiter.seat.result().in_flight -= 1
            self._assign()

    def _too_late(self, waiter: _Waiter) -> WaitedTooLong | NoReplica:
        if waiter.tried:
            return NoReplica(f"A replica of `{self.name}` failed and no other is free.", retry_after_s=5.0)
        if not self.ready:
            return NoReplica(f"No replica of `{self.name}` is up.", retry_after_s=5.0)
        return WaitedTooLong(f"All replicas of `{self.name}` are busy.", retry_after_s=1.0)

    def _assign(self) -> None:
        """Gives free slots to waiting calls, in order. A call that fits nowhere yet does not block those behind it."""
        while (first := self._waiting.first()) and self._any_open():
            if not self._give(first):
                break
        else:
            return
        for ticket in self._waiting.tickets()[1:]:
            if not self._any_open():
                return
            self._give(ticket)

    def _any_open(self) -> bool:
        return any(self._candidate(seat).open for seat in self._seats.values())

    def _give(self, ticket: Ticket[_Waiter]) -> bool:
        seat = self._choose(ticket.item)
        if seat is None:
            return False
        self._waiting.withdraw(ticket)
        if not ticket.item.seat.done():  # done: it just gave up, and withdraws in its own turn of the loop
            seat.in_flight += 1
            ticket.item.seat.set_result(seat)
        return True

    def _choose(self, waiter: _Waiter) -> Seat | None:
        candidates = [self._candidate(seat) for seat in self._seats.values()]
        chosen = choose(candidates, waiter.adapter, waiter.tried, self._rng)
        return self._seats[chosen.replica.id] if chosen else None

    def _candidate(self, seat: Seat) -> Candidate:
        suspect = seat.suspect_until > self._clock.now()
        return Candidate(seat.replica, seat.in_flight, seat.credit, suspect)
