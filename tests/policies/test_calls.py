"""policies.calls: a deadline is as asked, never beyond the configured one."""

import pytest

from policies.calls import deadline, new_call_id
from policies.errors import InvalidRequest


def test_the_asked_deadline_counts_from_arrival() -> None:
    assert deadline("1500", arrived_at=10, most_s=600) == 11.5


def test_no_deadline_is_later_than_the_configured() -> None:
    assert deadline(None, arrived_at=10, most_s=600) == 610
    assert deadline("999999999", arrived_at=10, most_s=600) == 610


@pytest.mark.parametrize("asked", ["0", "-5", "1.5", "soon", "", "٣"])
def test_what_is_no_duration_is_400(asked: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        deadline(asked, arrived_at=0, most_s=1)
    assert caught.value.param == "x-request-deadline-ms"


def test_call_ids_are_never_the_same() -> None:
    assert len({new_call_id() for _ in range(1000)}) == 1000
