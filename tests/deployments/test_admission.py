"""deployments.admission: a replica never runs more than its slots, keeps one order, and shares credit."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.admission import Admission
from policies.clock import WoundClock
from policies.errors import OverCredit


async def _turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_then_queue_then_refusal() -> None:
    admission = Admission(slots=1, queue=1, clock=WoundClock())
    async with admission.enter("g", 0):
        queued = asyncio.create_task(admission.enter("g", 0).__aenter__())
        await _turn()
        assert (admission.running, admission.waiting) == (1, 1)
        with pytest.raises(OverCredit):
            async with admission.enter("g", 0):
                pass
        queued.cancel()
        await asyncio.gather(queued, return_exceptions=True)
    assert (admission.running, admission.waiting) == (0, 0)


async def test_the_queue_keeps_priority_then_arrival() -> None:
    admission = Admission(slots=1, queue=8, clock=WoundClock())
    order: list[str] = []

    async def call(name: str, key: float) -> None:
        async with admission.enter("g", key):
            order.append(name)

    async with admission.enter("g", 0):
        calls = [asyncio.create_task(call(*one)) for one in (("late", 2), ("first", 1), ("second", 1))]
        await _turn()
    await asyncio.gather(*calls)
    assert order == ["first", "second", "late"]


async def test_a_busy_gateway_leaves_half_of_what_is_free_to_another() -> None:
    clock = WoundClock()
    admission = Admission(slots=8, queue=0, clock=clock)
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(admission.enter("a", 0))
        await stack.enter_async_context(admission.enter("b", 0))
        assert admission.credits() == {"a": 6, "b": 3}
    clock.wind(60)
    assert admission.credits() == {}
    assert admission.credit("c") == 8


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["enter", "leave", "cancel"]), max_size=60), st.integers(1, 3), st.integers(0, 3))
def test_no_sequence_of_calls_leaks_a_slot(steps: list[str], slots: int, queue: int) -> None:
    async def run() -> None:
        admission = Admission(slots, queue, WoundClock())
        calls: list[tuple[asyncio.Task[None], asyncio.Event]] = []

        async def call(done: asyncio.Event) -> None:
            async with admission.enter("g", 0):
                await done.wait()

        for step in steps:
            if step == "enter":
                done = asyncio.Event()
                calls.append((asyncio.create_task(call(done)), done))
            elif calls and step == "leave":
                calls.pop(0)[1].set()
            elif calls:
                calls.pop()[0].cancel()
            await _turn()
            assert admission.running <= slots
            assert admission.waiting <= queue
        for task, done in calls:
            done.set()
            await asyncio.gather(task, return_exceptions=True)
        await _turn()
        assert (admission.running, admission.waiting) == (0, 0)
        assert admission.credit("g") == slots + queue

    asyncio.run(run())
