"""One call in the engine: its choices, the pieces that wait for its reader, and how it ended.

The batch delivers, one reader takes. Knows no HTTP.
"""

import asyncio

from deployments.config import Fault
from deployments.engines.base import Meter
from deployments.engines.simulated.choice import Choice, Piece
from deployments.engines.simulated.requests import Plan
from deployments.wire import Usage


class Struck(Exception):
    """A scripted fault has its moment: all tokens before it are taken."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.kind)
        self.fault = fault


class Call:
    """Mutable state: `_pieces`, `generated` and `_error`; filled by the batch, emptied by `take`, on one loop."""

    def __init__(self, plan: Plan, choices: list[Choice], meter: Meter | None, fault: Fault | None) -> None:
        self.plan = plan
        self.choices = choices
        self.meter = meter
        self.generated = 0
        self._prompts: dict[int, int] = {}
        self._fault = fault
        self._pieces: list[Piece] = []
        self._error: Exception | None = None
        self._left = len(choices)
        self._waiter: asyncio.Future[None] | None = None

    @property
    def call_id(self) -> str:
        return self.meter.call_id if self.meter else ""

    @property
    def finished(self) -> bool:
        return self._left == 0

    @property
    def usage(self) -> Usage:
        prompt = sum(map(len, self.plan.prompts))
        return Usage(prompt, sum(self._prompts.values()), self.generated)

    def admitted(self, choice: Choice) -> None:
        """The choice entered the batch; its prompt counts once, with what the cache had for its first choice."""
        if choice.prompt in self._prompts:
            return
        self._prompts[choice.prompt] = choice.cached
        if self.meter:
            self.meter.prompted(choice.prompt_tokens, choice.cached)

    def due(self, choice: Choice) -> bool:
        """Whether this choice gets a token in this step, or a fault keeps it."""
        fault = self._fault
        if fault is None or self.generated < fault.at_token:
            return True
        if fault.kind == "slow":
            choice.skipped += 1
            if choice.skipped < fault.factor:
                return False
            choice.skipped = 0
            return True
        if fault.kind != "hang":
            self.end(Struck(fault))
        return False

    def deliver(self, piece: Piece) -> None:
        self.generated += 1
        self._left -= piece.finish is not None
        self._pieces.append(piece)
        if self.plan.stream or self.finished:
            self._wake()

    def end(self, error: Exception) -> None:
        """The reader gets what was delivered, then the error. The first error counts."""
        if self._error is None and not self.finished:
            self._error = error
            self._wake()

    async def take(self) -> list[Piece]:
        """What was delivered since the last time, empty once all is taken; a call that does not stream waits for all.

        The meter knows the tokens before the caller does.
        """
        while not self.finished and self._error is None and not (self._pieces and self.plan.stream):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error and not (self._pieces and isinstance(self._error, Struck) and self.plan.stream):
            raise self._error
        return self.report()

    def report(self) -> list[Piece]:
        """Tells the meter what was delivered and not yet taken, and takes it."""
        pieces, self._pieces = self._pieces, []
        if self.meter:
            for piece in pieces:
                self.meter.generated(piece.choice.number, (piece.token,))
        return pieces

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
