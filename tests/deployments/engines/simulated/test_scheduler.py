"""The batch: order, room, blocks, adapter slots, and the time that steps take."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from deployments.config import SimulatedEngine
from deployments.engines.simulated.scheduler import Scheduler, Sequence, Step


def _config(**fields: object) -> SimulatedEngine:
    defaults: dict[str, object] = {"decode_ms": 4.0, "prefill_ms_per_token": 1.0, "block_tokens": 4, "kv_blocks": 8}
    return SimulatedEngine.model_validate(defaults | fields)


def _begin(scheduler: Scheduler[Sequence], now: float = 0.0) -> Step[Sequence]:
    step = scheduler.begin(now)
    assert step is not None
    return step


def test_the_lower_priority_runs_first_then_the_earlier() -> None:
    scheduler = Scheduler[Sequence](_config(max_running=2))
    late, first, second = Sequence([1], 0, priority=5), Sequence([2], 0), Sequence([3], 0)
    for sequence in (late, first, second):
        scheduler.submit(sequence)
    assert _begin(scheduler).admitted == [first, second]
    assert scheduler.waiting == [late]


def test_a_first_token_comes_after_the_prefill_of_what_the_cache_lacks() -> None:
    scheduler = Scheduler[Sequence](_config())
    one, two = Sequence(list(range(10)), 0), Sequence(list(range(10)), 0)
    scheduler.submit(one)
    assert _begin(scheduler, 1.0) == Step([one], 1.010)
    assert scheduler.end() == []
    assert _begin(scheduler, 1.010).until == 1.010 + 0.004
    assert scheduler.end() == [one]
    scheduler.submit(two)
    _begin(scheduler, 2.0)
    assert (two.cached, two.prefilled_at) == (8, 2.002)


def test_each_further_sequence_adds_to_a_step() -> None:
    scheduler = Scheduler[Sequence](_config(prefill_ms_per_token=0, decode_ms_per_running=0.5))
    for number in range(3):
        scheduler.submit(Sequence([number], 0))
    assert _begin(scheduler, 1.0).until == 1.0 + 0.005


def test_a_long_prefill_slows_nobody_down() -> None:
    scheduler = Scheduler[Sequence](_config(prefill_ms_per_token=10))
    quick, long = Sequence([1], 0, priority=1), Sequence(list(range(12)), 0, priority=2)
    scheduler.submit(quick)
    _begin(scheduler, 0.0)
    scheduler.submit(long)
    assert _begin(scheduler, 0.010) == Step([long], 0.014)
    assert scheduler.end() == [quick]
    _begin(scheduler, 0.130)
    assert scheduler.end() == [quick, long]


def test_the_last_prompt_token_is_never_cached() -> None:
    scheduler = Scheduler[Sequence](_config())
    one, two = Sequence([1, 2, 3, 4], 0), Sequence([1, 2, 3, 4], 0)
    scheduler.submit(one)
    scheduler.submit(two)
    _begin(scheduler)
    assert two.cached == 0


def test_blocks_are_not_shared_across_salts_or_weights() -> None:
    scheduler = Scheduler[Sequence](_config())
    one, two = Sequence(list(range(8)), 1), Sequence(list(range(8)), 2)
    scheduler.submit(one)
    scheduler.submit(two)
    _begin(scheduler)
    assert two.cached == 0
    assert scheduler.blocks.used == 4


def test_unused_blocks_stay_until_room_is_needed_the_oldest_first() -> None:
    scheduler = Scheduler[Sequence](_config(kv_blocks=5))
    for number in (10, 20):
        sequence = Sequence([number] * 9, 0)
        scheduler.submit(sequence)
        _begin(scheduler)
        scheduler.remove(sequence)
    assert (scheduler.blocks.used, scheduler.blocks.idle) == (0, 4)
    big = Sequence([20] * 9 + [30] * 6, 0)
    scheduler.submit(big)
    _begin(scheduler)
    assert big.cached == 8
    assert scheduler.blocks.used + scheduler.blocks.idle <= 5


def test_a_call_waits_until_its_blocks_fit() -> None:
    scheduler = Scheduler[Sequence](_config())
    big, small = Sequence(list(range(28)), 0), Sequence(list(range(100, 108)), 0)
    scheduler.submit(big)
    scheduler.submit(small)
    assert _begin(scheduler).admitted == [big]
    scheduler.remove(big)
    assert _begin(scheduler).admitted == [small]


def test_without_a_free_block_the_last_in_order_goes_back_to_waiting() -> None:
    scheduler = Scheduler[Sequence](_config(prefill_ms_per_token=0))
    urgent, other = Sequence(list(range(16)), 0, priority=-1), Sequence(list(range(100, 116)), 0)
    scheduler.submit(urgent)
    scheduler.submit(other)
    _begin(scheduler)
    for sequence in scheduler.end():
        sequence.ids.append(7)
    _begin(scheduler)
    assert (scheduler.running, scheduler.waiting) == ([urgent], [other])


def test_an_adapter_in_use_keeps_its_slot_and_others_pass_who_waits_for_one() -> None:
    scheduler = Scheduler[Sequence](_config(adapter_slots=1, adapter_load_ms=60))
    first = Sequence([1], 0, adapter="a@1")
    scheduler.submit(first)
    assert _begin(scheduler) == Step([], 0.06)
    assert _begin(scheduler, 0.06).admitted == [first]
    second, base = Sequence([2], 0, adapter="b@1"), Sequence([3], 0)
    scheduler.submit(second)
    scheduler.submit(base)
    assert _begin(scheduler, 1.0).admitted == [base]
    scheduler.remove(first)
    _begin(scheduler, 2.0)
    assert scheduler.slots.resident() == ["b@1"]
    assert _begin(scheduler, 2.06).admitted == [second]


class _Machine(RuleBasedStateMachine):
    """Any order of arrivals, steps and aborts."""

    def __init__(self) -> None:
        super().__init__()
        self.config = _config(max_running=3, adapter_slots=1)
        self.scheduler = Scheduler[Sequence](self.config)
        self.alive: list[Sequence] = []
        self.now = 0.0

    @rule(
        ids=st.lists(st.integers(0, 1), min_size=1, max_size=20),
        priority=st.integers(-2, 2),
        adapter=st.sampled_from([None, None, "a@1", "b@1"]),
    )
    def arrive(self, ids: list[int], priority: int, adapter: str | None) -> None:
        sequence = Sequence(ids, hash(adapter), adapter, priority)
        self.alive.append(sequence)
        self.scheduler.submit(sequence)

    @rule()
    def step(self) -> None:
        step = self.scheduler.begin(self.now)
        assert (step is None) == (not self.alive)
        if step is None:
            return
        assert step.until >= self.now
        self.now = step.until
        for sequence in self.scheduler.end():
            sequence.ids.append(1)
            if len(sequence.ids) >= self.config.kv_blocks * self.config.block_tokens:
                self.abort(sequence)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.alive:
            self.abort(data.draw(st.sampled_from(self.alive)))

    def abort(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        self.scheduler.remove(sequence)
        self.alive.remove(sequence)

    @invariant()
    def the_batch_keeps_its_bounds(self) -> None:
        scheduler, blocks = self.scheduler, self.scheduler.blocks
        assert len(scheduler.running) <= self.config.max_running
        assert len(scheduler.running) + len(scheduler.waiting) == len(self.alive)
        assert 0 <= blocks.used <= blocks.used + blocks.idle <= blocks.capacity
        shared = {key for sequence in scheduler.running for key in sequence.holding.shared}
        assert blocks.used == len(shared) + sum(sequence.holding.own for sequence in scheduler.running)
        assert len({sequence.adapter for sequence in scheduler.running} - {None}) <= self.config.adapter_slots

    def teardown(self) -> None:
        for sequence in list(self.alive):
            self.abort(sequence)
        assert self.scheduler.blocks.used == 0
        assert self.scheduler.begin(self.now) is None


TestInvariants = _Machine.TestCase
TestInvariants.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_all_that_arrive_are_served_to_their_end(wanted: list[int]) -> None:
    """Preempted or not, nobody starves."""
    scheduler = Scheduler[Sequence](_config(kv_blocks=6))
    left = {Sequence([number] * 5, 0): count for number, count in enumerate(wanted)}
    for sequence in left:
        scheduler.submit(sequence)
    now = 0.0
    for _ in range(400):
        step = scheduler.begin(now)
        if step is None:
            break
        now = step.until
        for sequence in scheduler.end():
            sequence.ids.append(99)
            left[sequence] -= 1
            if not left[sequence]:
                scheduler.remove(sequence)
    assert not any(left.values())
