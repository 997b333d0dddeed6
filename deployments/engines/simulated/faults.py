"""The script of faults: which call is struck by which. Knows no transport; the API carries a fault out."""

from collections import Counter
from collections.abc import Iterable

from deployments.config import Fault


class Script:
    """Mutable state: how many calls matched each fault and how often it struck; counted by `pick` only."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._faults = tuple(faults)
        self._matched: Counter[int] = Counter()
        self._struck: Counter[int] = Counter()

    @property
    def armed(self) -> bool:
        """Whether any fault may strike; without one no prompt need be read."""
        return bool(self._faults)

    def pick(self, prompt: str) -> Fault | None:
        """The fault of a new call: the first in the script whose turn it is."""
        for place, fault in enumerate(self._faults):
            if fault.match not in prompt:
                continue
            self._matched[place] += 1
            spent = fault.times is not None and self._struck[place] >= fault.times
            if self._matched[place] % fault.every == 0 and not spent:
                self._struck[place] += 1
                return fault
        return None
