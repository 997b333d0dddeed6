"""policies.order: one order, first come first served among equals, nothing lost by leaving."""

from hypothesis import given
from hypothesis import strategies as st

from policies.order import WaitingList


def _drain(waiting: WaitingList[int]) -> list[int]:
    out = []
    while ticket := waiting.first():
        waiting.withdraw(ticket)
        out.append(ticket.item)
    return out


@given(st.lists(st.integers(0, 3)))
def test_lower_keys_first_and_arrival_among_equals(keys: list[int]) -> None:
    waiting: WaitingList[int] = WaitingList(bound=10)
    for number, key in enumerate(keys):
        waiting.push(number, key)
    assert _drain(waiting) == sorted(range(len(keys)), key=lambda number: (keys[number], number))
    assert len(waiting) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=80))
def test_who_withdraws_is_never_first_and_the_count_is_right(arrivals: list[tuple[int, bool]]) -> None:
    waiting: WaitingList[int] = WaitingList(bound=10)
    tickets = [(waiting.push(number, key), leaves) for number, (key, leaves) in enumerate(arrivals)]
    for ticket, leaves in tickets:
        if leaves:
            waiting.withdraw(ticket)
            waiting.withdraw(ticket)
    stay = [number for number, (_, leaves) in enumerate(arrivals) if not leaves]
    assert len(waiting) == len(stay)
    assert [ticket.item for ticket in waiting.tickets()] == sorted(stay, key=lambda n: (arrivals[n][0], n))
    assert sorted(_drain(waiting)) == stay


def test_full_at_its_bound() -> None:
    waiting: WaitingList[str] = WaitingList(bound=1)
    ticket = waiting.push("a")
    assert (waiting.full, repr(waiting)) == (True, "<WaitingList 1/1>")
    waiting.withdraw(ticket)
    assert (waiting.full, repr(waiting)) == (False, "<WaitingList 0/1>")
