"""Time as an argument: the system's clock for the product, a wound one for tests and simulations."""

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Monotonic seconds from an arbitrary start; for durations and deadlines."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch; for records that people read."""
        ...


class SystemClock:
    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class WoundClock:
    """Stands still until wound."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now

    def wind(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("a clock is only wound forward")
        self._now += seconds
