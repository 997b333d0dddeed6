from benchmarks.load import Tally
from benchmarks.measure import Idle, Round, figures
from benchmarks.overhead import simulated_workloads
from benchmarks.report import Target, table
from benchmarks.tables import TARGETS, summary

_MODELS = {4.0: "sim-4ms", 20.0: "sim-20ms"}


def _result(pace_ms: float) -> dict[str, object]:
    tally = Tally(
        calls=10, tokens=640, wall_s=1.0, ttft_ms=[5.0], gaps_ms=[pace_ms], latency_ms=[9.0], pace_ms=[pace_ms]
    )
    one = Round(tally, tally, {"gateway": 0.05, "haproxy": 0.01}, cpu_wall_s=1.0)
    found = {each.name: figures(each, [one], Idle({"gateway": 10.0})) for each in simulated_workloads(_MODELS)}
    return {"workloads": found, "gateway_rss_mb": 170.0}


def test_the_workloads_are_unary_and_64_chunk_streams_at_1_and_16_at_4_ms_and_64_at_20_ms() -> None:
    shapes = {(each.name, each.model, each.decode_ms, each.tokens) for each in simulated_workloads(_MODELS)}
    assert shapes == {
        ("unary_c1", "sim-4ms", 4.0, 8),
        ("unary_c16", "sim-4ms", 4.0, 8),
        ("unary_c64", "sim-20ms", 20.0, 8),
        ("stream_c1", "sim-4ms", 4.0, 64),
        ("stream_c16", "sim-4ms", 4.0, 64),
        ("stream_c64", "sim-20ms", 20.0, 64),
    }


def test_every_figure_with_a_floor_is_a_key_of_the_summary() -> None:
    found = summary(_result(4.0))
    assert {target.key for target in TARGETS} <= found.keys()
    assert found["unary_cpu_ms"] == 5.0
    assert found["unary_cpu_with_idle_ms"] == 6.0
    assert found["chunk_cpu_us"] == round(5e4 / 640, 2)
    assert (found["lost"], found["failed"]) == (0, 0)


def test_a_figure_of_a_workload_that_does_not_count_is_not_given() -> None:
    found = summary(_result(4.2))
    assert found["chunk_cpu_us"] is None
    assert found["unary_cpu_ms"] == 5.0
    # 20 ms per chunk was nominal there, so that one was held.
    assert found["uncounted"] == ["stream_c1", "stream_c16"]


def test_a_floor_is_missed_beyond_it_in_the_direction_that_is_worse() -> None:
    lower, higher = Target("a", "ms", 5, 2), Target("b", "", 0.95, 0.98, "higher")
    assert [lower.verdict(value) for value in (2, 5, 5.1, None)] == [
        "aim reached",
        "floor held",
        "FLOOR MISSED",
        "not measured",
    ]
    assert [higher.verdict(value) for value in (0.98, 0.95, 0.94)] == ["aim reached", "floor held", "FLOOR MISSED"]


def test_a_table_shows_what_was_not_measured_as_a_dash() -> None:
    assert table(("a", "b"), [("x", None), ("y", 1.23456)]) == "a      b\n--------\nx      -\ny  1.235"
