"""Which replica takes a call: a pure choice from what is known of each.

The better of two random candidates (Mitzenmacher, "The power of two choices in randomized load balancing", 2001):
many gateways that each took the least loaded replica of the same snapshot would all take the same one.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Replica:
    """What a replica reports of itself.

    address: `http://host:port` of its engine port.
    slots: calls that it admits at once, its queue included.
    max_model_len: tokens of prompt and answer together; 0 when it has not said.
    running, waiting: calls in its engine and before it.
    adapters: public name to the version that is loaded.
    credits: calls that each gateway, by id, may have there at once.
    """

    id: str
    pool: str
    address: str
    slots: int
    max_model_len: int = 0
    node: str = ""
    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    draining: bool = False
    healthy: bool = True
    adapters: Mapping[str, str] = field(default_factory=dict)
    credits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica as one gateway sees it: with its own calls there, its credit, and whether it just failed to answer."""

    replica: Replica
    in_flight: int
    credit: int
    suspect: bool = False

    @property
    def open(self) -> bool:
        replica = self.replica
        return replica.healthy and not (replica.draining or self.suspect) and self.in_flight < self.credit

    @property
    def load(self) -> float:
        """Share of its slots in use; own calls that its last report did not yet see count too."""
        return max(self.replica.running + self.replica.waiting, self.in_flight) / self.replica.slots


def choose(
    candidates: Sequence[Candidate], adapter: str | None, tried: Collection[str], rng: random.Random
) -> Candidate | None:
    """The replica for a call, or None when it has to wait. `tried` are ids that already failed this call."""
    able = [
        candidate
        for candidate in candidates
        if candidate.open
        and candidate.replica.id not in tried
        and (adapter is None or adapter in candidate.replica.adapters)
    ]
    if len(able) <= 1:
        return able[0] if able else None
    one, other = rng.sample(able, 2)
    return min(one, other, key=lambda candidate: candidate.load)


def credit(in_flight: int, all_in_flight: int, slots: int, gateways: int) -> int:
    """Calls that one gateway may have at a replica: what it has, and its share of what is free, rounded up.

    So an idle gateway's share is not lost to a busy one, and the sum exceeds `slots` by less than `gateways`.
    """
    free = max(0, slots - all_in_flight)
    return in_flight + -(-free // max(1, gateways))
