"""cluster.autoscaling: replicas follow the calls that replicas report."""

from types import SimpleNamespace

import pytest

from cluster.autoscaling import by_slots


@pytest.mark.parametrize(
    ("calls", "slots", "wanted"),
    [([0, 0], [10, 10], 1), ([7], [10], 1), ([8], [10], 2), ([10, 10], [10, 10], 3), ([70], [10], 10)],
)
def test_above_seven_tenths_of_the_slots_a_replica_is_added(calls: list[int], slots: list[int], wanted: int) -> None:
    metrics = {"calls": dict(enumerate(calls)), "slots": dict(enumerate(slots))}
    context = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=4)
    assert by_slots(context)[0] == wanted


def test_without_a_report_nothing_changes() -> None:
    assert by_slots(SimpleNamespace(aggregated_metrics={}, target_num_replicas=4))[0] == 4
