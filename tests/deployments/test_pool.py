"""deployments.pool: slots go out in order and within credit, and come back however a call ends."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from deployments.pool import Pool, Seat
from policies.clock import WoundClock
from policies.errors import NoReplica, QueueFull, WaitedTooLong
from policies.replicas import Replica


def _replica(name: str, credit: int, **more: object) -> Replica:
    return Replica(name, "m", f"http://{name}", slots=8, credits={"g": credit}, **more)  # type: ignore[arg-type]


def _pool(*replicas: Replica, max_waiting: int = 8) -> Pool:
    pool = Pool("m", "g", max_waiting=max_waiting, clock=WoundClock(), rng=random.Random(1))
    pool.update(replicas, gateways=1)
    return pool


@asynccontextmanager
async def _waiting(
    pool: Pool, key: float = 0.0, adapter: str | None = None, tried: tuple[str, ...] = ()
) -> AsyncGenerator["asyncio.Task[Seat]", None]:
    """A call that waits; its slot, once given, is held until the end of the scope."""
    done = asyncio.Event()

    async def call() -> Seat:
        async with pool.slot(adapter, tried, key, wait_until=1e9) as seat:
            given.set_result(seat)
            await done.wait()
            return seat

    given: asyncio.Future[Seat] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    try:
        yield given  # type: ignore[misc]
    finally:
        done.set()
        if not given.done():
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_slot_is_held_inside_the_scope_and_free_after_it() -> None:
    pool = _pool(_replica("r", 1))
    async with pool.slot(None, (), 0, 1e9) as seat:
        assert (seat.replica.id, pool.active) == ("r", 1)
    assert pool.active == 0


async def test_waiting_calls_are_served_by_key_then_arrival() -> None:
    pool = _pool(_replica("r", 1))
    async with AsyncExitStack() as stack:
        holder = AsyncExitStack()
        await holder.enter_async_context(pool.slot(None, (), 0, 1e9))
        late = await stack.enter_async_context(_waiting(pool, key=2))
        soon = await stack.enter_async_context(_waiting(pool, key=1))
        assert pool.waiting == 2
        await holder.aclose()
        await _turn()
        assert soon.done()
        assert not late.done()
    assert (pool.active, pool.waiting) == (0, 0)


async def test_a_call_that_fits_nowhere_does_not_block_those_behind_it() -> None:
    """The first waits for an adapter that nobody holds; the second is served."""
    pool = _pool()
    async with _waiting(pool, key=1, adapter="x") as first, _waiting(pool, key=2) as second:
        pool.update([_replica("r", 2)], gateways=1)
        await _turn()
        assert second.done()
        assert not first.done()
        pool.update([_replica("r", 2, adapters={"x": "x@1"})], gateways=1)
        await _turn()
        assert first.done()
    assert pool.active == 0


async def test_beyond_the_bound_a_call_is_refused_at_once_but_not_one_that_failed_elsewhere() -> None:
    pool = _pool(_replica("r", 0), max_waiting=1)
    async with _waiting(pool):
        with pytest.raises(QueueFull) as refused:
            async with pool.slot(None, (), 0, 1e9):
                pass
        assert refused.value.retry_after_s
        async with _waiting(pool, tried=("other",)):
            assert pool.waiting == 2
    assert pool.waiting == 0


@pytest.mark.parametrize(("replicas", "error"), [([], NoReplica), ([_replica("r", 0)], WaitedTooLong)])
async def test_who_waited_too_long_is_told_why(replicas: list[Replica], error: type[Exception]) -> None:
    pool = _pool(*replicas)
    with pytest.raises(error):
        async with pool.slot(None, (), 0, wait_until=0):
            pass
    assert pool.waiting == 0


async def test_a_call_cancelled_in_the_turn_it_was_given_a_slot_returns_it() -> None:
    pool = _pool(_replica("r", 1))
    async with pool.slot(None, (), 0, 1e9):
        task = asyncio.create_task(pool.slot(None, (), 0, 1e9).__aenter__())
        await _turn()
    task.cancel()  # the slot was assigned on leaving the scope above, and the task has not run since
    await asyncio.gather(task, return_exceptions=True)
    assert (pool.active, pool.waiting) == (0, 0)


async def test_a_call_whose_time_is_up_in_the_turn_it_was_given_a_slot_returns_it() -> None:
    pool = _pool(_replica("r", 0))
    task = asyncio.create_task(pool.slot(None, (), 0, wait_until=0.01).__aenter__())
    await _turn()
    asyncio.get_running_loop().call_soon(pool.update, [_replica("r", 1)], 1)
    time.sleep(0.05)  # noqa: ASYNC251 - so that the loop finds both due in one turn
    (ended,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(ended, WaitedTooLong)
    assert (pool.active, pool.waiting) == (0, 0)


async def test_a_suspect_replica_is_left_alone() -> None:
    pool = _pool(_replica("a", 4), _replica("b", 4))
    async with pool.slot(None, (), 0, 1e9) as seat:
        pool.suspect(seat)
    for _ in range(8):
        async with pool.slot(None, (), 0, 1e9) as other:
            assert other.replica.id != seat.replica.id


async def test_ready_means_a_replica_that_serves() -> None:
    assert not _pool().ready
    assert not _pool(_replica("r", 1, draining=True)).ready
    assert _pool(_replica("r", 1)).ready
    assert "1 active" not in repr(_pool(_replica("r", 1)))
