"""One timer for all calls of a gateway: a heartbeat for the quiet ones, an end for those whose reader stalls."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from deployments.caller import HttpCaller
from policies.clock import Clock
from policies.errors import ClientLeft, ClientStalled


class Watch:
    """Mutable state: `_callers` (and whether each wants heartbeats) and `_beats`; changed in `over` and `look` only."""

    def __init__(self, *, heartbeat_s: float, stall_s: float, clock: Clock) -> None:
        self._heartbeat_s = heartbeat_s
        self._stall_s = stall_s
        self._clock = clock
        self._callers: dict[HttpCaller, bool] = {}
        self._beats: set[asyncio.Task[None]] = set()

    @contextmanager
    def over(self, caller: HttpCaller, *, stream: bool) -> Generator[None, None, None]:
        self._callers[caller] = stream
        try:
            yield
        finally:
            del self._callers[caller]

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        pause_s = max(0.02, min(self._heartbeat_s, self._stall_s, 4.0) / 4)
        while True:
            await asyncio.sleep(pause_s)
            self.look()

    def look(self) -> None:
        now = self._clock.now()
        for caller, stream in self._callers.items():
            if caller.blocked_since is not None:
                if now - caller.blocked_since > self._stall_s:
                    caller.end(ClientStalled("The client took nothing for too long."))
            elif stream and not caller.ended and now - caller.quiet_since > self._heartbeat_s:
                beat = asyncio.get_running_loop().create_task(_beat(caller))
                self._beats.add(beat)
                beat.add_done_callback(self._beats.discard)


async def _beat(caller: HttpCaller) -> None:
    try:
        await caller.heartbeat()
    except ClientLeft as left:
        caller.end(left)
