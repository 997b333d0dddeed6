"""What is written of each call: one log line and one metrics record, exactly once, whatever happened.

Prompts and answers are never written.
"""

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import orjson

from deployments.metrics import GatewayMetrics
from deployments.wire import Usage
from policies.clock import Clock
from policies.errors import ThemisError

FINISHED = "finished"
_log = logging.getLogger("themis.calls")


@dataclass(slots=True)
class Record:
    """One call as it goes. Times are the clock's; None where the call did not get so far."""

    call_id: str
    endpoint: str
    label: str | None
    arrived_at: float
    tenant: str | None = None
    key: str | None = None
    model: str | None = None
    stream: bool = False
    parsed_at: float | None = None
    seated_at: float | None = None
    connected_at: float | None = None
    first_byte_at: float | None = None
    attempts: int = 0
    replica: str | None = None
    usage: Usage | None = None
    status: int | None = None


class Records:
    """Mutable state: `active`; changed in `open` only."""

    def __init__(self, metrics: GatewayMetrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self.active = 0
        metrics.active.set_function(lambda: self.active)

    @contextmanager
    def open(self, record: Record) -> Generator[Record, None, None]:
        """The scope of a call. An error passes through, and is what the record says of the ending."""
        self.active += 1
        ending = FINISHED
        try:
            yield record
        except ThemisError as error:
            ending = error.code or error.type
            record.status = record.status or error.status
            raise
        except asyncio.CancelledError:
            # Serve cancels a call for one reason only: its client went away.
            ending = "client_gone"
            raise
        except BaseException:
            ending = "internal_error"
            raise
        finally:
            self.active -= 1
            self._close(record, ending)

    def _close(self, record: Record, ending: str) -> None:
        ended_at = self._clock.now()
        metrics, model = self._metrics, record.model or ""
        metrics.calls.labels(record.endpoint, model, ending).inc()
        metrics.duration.labels(record.endpoint).observe(ended_at - record.arrived_at)
        for stage, seconds in _stages(record, ended_at).items():
            metrics.stages[stage].observe(seconds)
        if record.usage:
            metrics.tokens.labels(model, "prompt").inc(record.usage.prompt)
            metrics.tokens.labels(model, "cached").inc(record.usage.cached)
            metrics.tokens.labels(model, "generated").inc(record.usage.generated)
        if _log.isEnabledFor(logging.INFO):
            _log.info("%s", orjson.dumps(self._line(record, ending, ended_at)).decode())

    def _line(self, record: Record, ending: str, ended_at: float) -> dict[str, object]:
        line: dict[str, object] = {
            "event": "call",
            "at": round(self._clock.wall(), 3),
            "call": record.call_id,
            "label": record.label,
            "endpoint": record.endpoint,
            "tenant": record.tenant,
            "key": record.key,
            "model": record.model,
            "stream": record.stream,
            "ending": ending,
            "status": record.status,
            "attempts": record.attempts,
            "replica": record.replica,
            "seconds": round(ended_at - record.arrived_at, 6),
        }
        line.update({f"{stage}_s": round(seconds, 6) for stage, seconds in _stages(record, ended_at).items()})
        if record.usage:
            usage = record.usage
            line.update(prompt_tokens=usage.prompt, cached_tokens=usage.cached, generated_tokens=usage.generated)
        return line


def _stages(record: Record, ended_at: float) -> dict[str, float]:
    """Seconds of each stage that the call reached the end of."""
    marks = (
        ("identity", record.arrived_at, record.parsed_at),
        ("wait", record.parsed_at, record.seated_at),
        ("connect", record.seated_at, record.connected_at),
        ("first_token", record.arrived_at, record.first_byte_at),
        ("stream", record.first_byte_at, ended_at if record.first_byte_at is not None else None),
    )
    return {stage: until - since for stage, since, until in marks if since is not None and until is not None}
