"""The thin shell around an engine's app: who may call, how many, what each call used.

It demands the cluster secret on every path, gives each call a slot and a meter, and sends what the meter counted out of
band (deployments.wire). What the engine answers passes untouched.
"""

import asyncio
import hmac
import logging
from collections import deque
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from deployments import wire
from deployments.admission import Admission
from deployments.answers import Listening, MeteredAnswer, answer, refuse
from deployments.engines.base import Engine, Meter, current
from deployments.metrics import CONTENT_TYPE, ShellMetrics
from deployments.scrape import may_scrape
from deployments.wire import Usage
from policies.clock import Clock
from policies.errors import OverCredit

_log = logging.getLogger("themis.replica")
_KEPT_RECORDS = 4096


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What one attempt of one call used, for whoever settles it."""

    call_id: str
    attempt: str
    usage: Usage
    ended_at: float
    whole: bool  # the answer was sent to its end


class Shell:
    """Mutable state: `draining`, `records` and `_calls`; changed in `_call` and `drain` only."""

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        *,
        secrets: Callable[[], Collection[str]],
        metrics: ShellMetrics,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self.admission = admission
        self._secrets = secrets
        self._metrics = metrics
        self._clock = clock
        self.draining = False
        self.records: deque[UsageRecord] = deque(maxlen=_KEPT_RECORDS)
        self._calls: set[asyncio.Task[object]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def active(self) -> int:
        return len(self._calls)

    async def drain(self, deadline_s: float) -> int:
        """Takes no new call, and waits for those that run. Returns how many it had to end at the deadline."""
        self.draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._idle.wait()
        cut = list(self._calls)
        for task in cut:
            task.cancel()
        return len(cut)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        trusted = self._trusted(headers.get(wire.SECRET.encode(), b""))
        scrape = scope["path"] == "/metrics" and scope["method"] == "GET"
        if not trusted and not (scrape and may_scrape(headers.get(b"authorization", b"").decode(), self._secrets())):
            await refuse(send, 401, "This port is the cluster's own.", {})
        elif scrape:
            body = self._metrics.render(self.admission.running, self.admission.waiting) + self._engine.metrics()
            await answer(send, 200, body, CONTENT_TYPE.encode(), {})
        elif scope["method"] == "GET":
            await self._engine.app(scope, receive, send)
        else:
            await self._call(scope, receive, send, {key.decode(): value.decode() for key, value in headers.items()})

    def _trusted(self, presented: bytes) -> bool:
        # Every secret is compared, whichever matched: two are valid during a rotation.
        matches = [hmac.compare_digest(secret.encode(), presented) for secret in self._secrets()]
        return any(matches)

    async def _call(self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]) -> None:
        gateway = headers.get(wire.GATEWAY, "")
        if self.draining:
            told = {wire.REFUSED: wire.DRAINING, wire.CREDIT: "0"}
            await refuse(send, 503, "This replica is draining.", told)
            return
        with self._counted() as task:
            try:
                async with Listening(receive, task) as listening:
                    priority = int(headers.get(wire.PRIORITY, "0"))
                    async with self.admission.enter(gateway, priority):
                        listening.let_engine_notice()
                        await self._engine_call(scope, listening, send, headers, priority)
            except OverCredit:
                told = {wire.REFUSED: wire.OVER_CREDIT, wire.CREDIT: str(self.admission.credit(gateway))}
                self._metrics.refused.inc()
                await refuse(send, 503, "This replica has no room.", told)

    @contextmanager
    def _counted(self) -> Generator[asyncio.Task[object], None, None]:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        self._idle.clear()
        try:
            yield task
        finally:
            self._calls.discard(task)
            if not self._calls:
                self._idle.set()

    async def _engine_call(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str], priority: int
    ) -> None:
        meter = Meter(headers.get(wire.CALL, ""), priority, headers.get(wire.SALT))
        metered = MeteredAnswer(send, meter, self._engine, lambda: self.admission.credit(headers.get(wire.GATEWAY, "")))
        token = current.set(meter)
        try:
            await self._engine.app(scope, receive, metered)
        finally:
            current.reset(token)
            record = UsageRecord(
                meter.call_id, headers.get(wire.ATTEMPT, "1"), meter.usage, self._clock.wall(), metered.whole
            )
            self.records.append(record)
            self._metrics.count(record.usage, whole=record.whole)
            _log.debug("usage %s", record)
