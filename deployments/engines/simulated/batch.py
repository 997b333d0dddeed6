"""The scheduler on the event loop: one timer per step for all running calls, since timers are what costs."""

import asyncio
import math
from collections.abc import Callable

from deployments.config import SimulatedEngine
from deployments.engines.simulated.call import Call
from deployments.engines.simulated.choice import Choice
from deployments.engines.simulated.scheduler import Scheduler, Step
from policies.clock import Clock


class Batch:
    """Mutable state: `_timer` and `_until` of the running step, `_calls` by choice; `_begin` and `_end` alternate."""

    def __init__(self, config: SimulatedEngine, clock: Clock, counted: Callable[[int, int], None]) -> None:
        """`counted` is told of prompt and generated tokens."""
        self.scheduler: Scheduler[Choice] = Scheduler(config)
        self._clock = clock
        self._counted = counted
        self._calls: dict[Choice, Call] = {}
        self._timer: asyncio.Handle | None = None
        self._until = -math.inf
        self._lag_s = config.decode_ms / 1000

    def submit(self, call: Call) -> None:
        for choice in call.choices:
            self._calls[choice] = call
            self.scheduler.submit(choice)
        self._hurry()

    def remove(self, call: Call) -> None:
        """Frees whatever the call holds. Harmless when it has ended."""
        for choice in call.choices:
            if self._calls.pop(choice, None):
                self.scheduler.remove(choice)
        self._hurry()

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
            self._until = -math.inf

    def _hurry(self) -> None:
        """Leaves a step that serves nobody for the next one."""
        if not self.scheduler.stepping:
            self.stop()
            # After this round of the loop, so that calls that arrive together start together.
            self._timer = asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        # A step starts when the last one should have ended: loop and timer lag would add up to a slower pace.
        now = self._clock.now()
        start = self._until if now - self._until < self._lag_s else now
        step = self.scheduler.begin(start)
        if step is None:
            self._timer = None
            return
        self._admit(step)
        self._until = step.until
        self._timer = asyncio.get_running_loop().call_later(max(0.0, step.until - now), self._end)

    def _admit(self, step: Step[Choice]) -> None:
        for choice in step.admitted:
            self._calls[choice].admitted(choice)
            self._counted(choice.prompt_tokens, 0)

    def _end(self) -> None:
        for choice in self.scheduler.end():
            call = self._calls[choice]
            if not call.due(choice):
                continue
            piece = choice.advance()
            self._counted(0, 1)
            if piece.finish:
                del self._calls[choice]
                self.scheduler.remove(choice)
            call.deliver(piece)
        self._begin()
