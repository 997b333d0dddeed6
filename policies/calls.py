"""A call's own facts, fixed at its arrival. Times are the clock's (policies.clock)."""

import uuid
from dataclasses import dataclass

from policies.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Call:
    """`id` is made here; `label` is the caller's `x-request-id`: no more than a label."""

    id: str
    endpoint: str
    label: str | None
    arrived_at: float
    deadline_at: float


def new_call_id() -> str:
    return uuid.uuid4().hex


def deadline(asked_ms: str | None, *, arrived_at: float, most_s: float) -> float:
    """When a call must have ended: as asked by `x-request-deadline-ms`, at most `most_s` seconds after its arrival."""
    if asked_ms is None:
        return arrived_at + most_s
    if not (asked_ms.isascii() and asked_ms.isdigit()) or int(asked_ms) < 1:
        raise InvalidRequest(
            "`x-request-deadline-ms` must be a whole number of milliseconds, at least 1.", param="x-request-deadline-ms"
        )
    return arrived_at + min(int(asked_ms) / 1000, most_s)
