"""Who is next: a bounded list of waiting calls, ordered by key, first come first served among equals.

The gateway's waiting room and the replica shell's admission queue are both this class, so that both keep one order.
"""

import heapq
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(order=True, slots=True)
class Ticket(Generic[Item]):
    """One place in the list. `key` is the order's (lower is earlier); `number` is the arrival."""

    key: float
    number: int
    item: Item = field(compare=False)
    waiting: bool = field(default=True, compare=False)


class WaitingList(Generic[Item]):
    """Mutable state: `_heap` and `_count`; changed in `push`, `pop` and `withdraw` only.

    A withdrawn ticket stays in the heap until it surfaces or half of the heap is withdrawn.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._heap: list[Ticket[Item]] = []
        self._count = 0
        self._number = 0

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<WaitingList {self._count}/{self.bound}>"

    @property
    def full(self) -> bool:
        return self._count >= self.bound

    def push(self, item: Item, key: float = 0.0) -> Ticket[Item]:
        """Takes a place. The caller looks at `full` first: one that has waited before may come back above the bound."""
        self._number += 1
        self._count += 1
        ticket = Ticket(key, self._number, item)
        heapq.heappush(self._heap, ticket)
        return ticket

    def first(self) -> Ticket[Item] | None:
        while self._heap and not self._heap[0].waiting:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def tickets(self) -> list[Ticket[Item]]:
        """All that wait, in order."""
        return sorted(ticket for ticket in self._heap if ticket.waiting)

    def withdraw(self, ticket: Ticket[Item]) -> None:
        """Gives the place up. Harmless when it was given up before."""
        if ticket.waiting:
            ticket.waiting = False
            self._count -= 1
            if len(self._heap) > 2 * self._count + 16:
                self._heap = self.tickets()
