"""policies.replicas: a replica is chosen only if it may take the call, the better of two, within its credit."""

import random

from hypothesis import given
from hypothesis import strategies as st

from policies.replicas import Candidate, Replica, choose, credit


def _candidate(name: str, *, running: int = 0, in_flight: int = 0, allowed: int = 8, **more: object) -> Candidate:
    suspect = bool(more.pop("suspect", False))
    replica = Replica(name, "pool", f"http://{name}", slots=8, running=running, **more)  # type: ignore[arg-type]
    return Candidate(replica, in_flight, allowed, suspect)


def test_the_less_loaded_of_two_is_chosen() -> None:
    candidates = [_candidate("busy", running=6), _candidate("idle", running=1)]
    chosen = {choose(candidates, None, (), random.Random(seed)).replica.id for seed in range(20)}  # type: ignore[union-attr]
    assert chosen == {"idle"}


def test_with_many_gateways_the_least_loaded_does_not_get_all() -> None:
    """Two of three are drawn at random, so a snapshot's minimum is not everybody's choice."""
    candidates = [_candidate("a", running=0), _candidate("b", running=1), _candidate("c", running=2)]
    chosen = [choose(candidates, None, (), random.Random(seed)) for seed in range(200)]
    names = [one.replica.id for one in chosen if one]
    assert names.count("a") > names.count("b") > 20
    assert names.count("c") == 0


def test_own_calls_that_a_report_has_not_seen_count() -> None:
    candidates = [_candidate("a", running=0, in_flight=5), _candidate("b", running=3)]
    chosen = choose(candidates, None, (), random.Random(1))
    assert chosen
    assert chosen.replica.id == "b"


def test_no_call_goes_where_it_may_not() -> None:
    """Draining, unhealthy, suspect, without credit, already tried, or without the adapter: not chosen."""
    never = [
        _candidate("draining", draining=True),
        _candidate("unhealthy", healthy=False),
        _candidate("suspect", suspect=True),
        _candidate("spent", in_flight=8),
        _candidate("tried", adapters={"x": "x@1"}),
        _candidate("bare"),
    ]
    assert choose(never, "x", {"tried"}, random.Random(1)) is None
    holder = _candidate("holder", adapters={"x": "x@1"}, running=8)
    assert choose([*never, holder], "x", {"tried"}, random.Random(1)) == holder


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(1, 64))
def test_credits_leave_no_free_slot_unusable_and_overbook_by_less_than_one_each(held: list[int], slots: int) -> None:
    shares = [credit(one, sum(held), slots, len(held)) for one in held]
    assert all(limit >= one for limit, one in zip(shares, held, strict=True))
    free = max(0, slots - sum(held))
    more = sum(shares) - sum(held)
    assert free <= more < free + len(held)
