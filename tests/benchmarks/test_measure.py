from collections.abc import Mapping
from dataclasses import replace

import pytest

from benchmarks.load import Tally
from benchmarks.measure import Idle, Round, Workload, added, counts, cpu, figures, pace_held, percentile, requests

_STREAM = Workload("stream", "sim", stream=True, concurrency=16, tokens=4, decode_ms=4.0)
_NOBODY = Idle({})


def _tally(*gaps_ms: float, calls: int = 1) -> Tally:
    pace = sum(gaps_ms) / len(gaps_ms)
    return Tally(
        calls=calls,
        tokens=4 * calls,
        wall_s=1.0,
        gaps_ms=list(gaps_ms),
        ttft_ms=[1.0],
        latency_ms=[2.0],
        pace_ms=[pace],
    )


def _round(direct: Tally, gateway: Tally, cpu_s: Mapping[str, float] | None = None) -> Round:
    return Round(direct, gateway, cpu_s or {}, cpu_wall_s=1.0)


def test_percentiles_lie_between_ranks() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([0.0, 10.0], 0.99) == pytest.approx(9.9)
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_pace_is_held_when_the_direct_leg_kept_97_percent_of_the_nominal_one() -> None:
    slow, exact = _tally(5.0), _tally(4.0)
    assert pace_held(_STREAM, [_round(exact, slow)]) == 1.0
    assert pace_held(_STREAM, [_round(slow, exact)]) == 0.8
    assert pace_held(replace(_STREAM, stream=False), [_round(slow, exact)]) is None
    assert pace_held(replace(_STREAM, decode_ms=None), [_round(slow, exact)]) is None
    assert [counts(pace) for pace in (0.969, 0.97, None)] == [False, True, True]


def test_what_is_added_is_the_median_of_the_rounds_own_differences() -> None:
    rounds = [_round(_tally(4.0), _tally(5.0)), _round(_tally(40.0), _tally(42.0)), _round(_tally(4.0), _tally(99.0))]
    assert added(rounds, "gaps_ms", 0.5) == 2.0


def test_cpu_is_that_of_the_median_round_so_that_its_parts_make_its_sum() -> None:
    rounds = [
        _round(_tally(4.0), _tally(4.0, calls=100), {"gateway": seconds, "haproxy": 0.01})
        for seconds in (0.9, 0.03, 0.04)
    ]
    assert cpu(rounds, stream=True) == {"gateway": 100.0, "haproxy": 25.0, "sum": 125.0}
    assert cpu(rounds, stream=False) == {"gateway": 400.0, "haproxy": 100.0, "sum": 500.0}


def test_net_cpu_leaves_out_what_the_same_time_costs_without_calls() -> None:
    rounds = [_round(_tally(4.0), _tally(4.0, calls=100), {"gateway": 0.05, "controller": 0.02})]
    assert cpu(rounds, stream=False, idle=Idle({"gateway": 10.0, "controller": 20.0})) == {
        "controller": 0.0,
        "gateway": 400.0,
        "sum": 400.0,
    }


def test_a_workload_whose_pace_was_not_held_does_not_count_and_says_so() -> None:
    found = figures(_STREAM, [_round(_tally(5.0), _tally(5.0))], _NOBODY)
    assert (found["counts"], found["pace_held"]) == (False, 0.8)


def test_a_leg_without_a_single_answer_is_told_and_does_not_count() -> None:
    silent = Tally(lost=16, wall_s=1.0)
    found = figures(_STREAM, [_round(silent, silent)], _NOBODY)
    assert (found["lost"], found["calls"], found["counts"]) == (32, 0, False)
    assert (found["added_ttft_ms_p50"], found["throughput_ratio"]) == (None, 0.0)


def test_the_same_seed_makes_the_same_requests_and_another_one_others() -> None:
    assert requests(_STREAM, 1) == requests(_STREAM, 1) != requests(_STREAM, 2)
