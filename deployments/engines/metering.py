"""Counts what an engine in this process generates for one HTTP call, prompt by prompt, into the call's meter.

Reads vLLM's outputs and request states by their attributes; imports no engine, so it is tested without one.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from deployments.engines.base import Meter


class Prompt:
    """One prompt of a call inside the engine, with its `n` choices.

    Mutable state: `states` (set once, when the engine has taken the prompt), `_entered`, `_told`; changed on the
    engine's loop only.
    """

    def __init__(self, meter: Meter | None, request_id: str, first_choice: int, *, delta: bool) -> None:
        self.request_id = request_id
        self.states: Sequence[Any] = ()
        self._meter = meter
        self._first_choice = first_choice
        self._delta = delta
        self._entered = False
        self._told: dict[int, int] = {}

    def note(self, output: Any) -> None:
        """Counts one RequestOutput, before its receiver sees it."""
        self._enter(len(output.prompt_token_ids or ()), output.num_cached_tokens or 0)
        for choice in output.outputs:
            told = 0 if self._delta else self._told.get(choice.index, 0)
            self._tell(choice.index, choice.token_ids[told:])

    def settle(self) -> None:
        """Counts what was generated but never handed on, as when the caller left. Harmless when called again."""
        for state in self.states:
            ids = state.detokenizer.output_token_ids
            if ids:
                self._enter(state.prompt_len, state.num_cached_tokens)
            self._tell(state.request_index, ids[self._told.get(state.request_index, 0) :])

    def _enter(self, tokens: int, cached: int) -> None:
        if self._meter and not self._entered:
            self._entered = True
            self._meter.prompted(tokens, cached)

    def _tell(self, index: int, ids: Sequence[int]) -> None:
        self._told[index] = self._told.get(index, 0) + len(ids)
        if self._meter:
            self._meter.generated(self._first_choice + index, ids)


class Call:
    """All prompts of one HTTP call, numbered as the call's body numbers them."""

    def __init__(self, meter: Meter | None) -> None:
        self.meter = meter
        self.prompts: list[Prompt] = []

    def enter(self, request_id: str, choices: int, *, delta: bool) -> Prompt:
        """The next prompt. `delta`: its outputs carry new ids only, not all so far."""
        prompt = Prompt(self.meter, request_id, len(self.prompts) * choices, delta=delta)
        self.prompts.append(prompt)
        return prompt

    def settle(self) -> None:
        for prompt in self.prompts:
            prompt.settle()


call_here: ContextVar[Call | None] = ContextVar("call_here", default=None)
"""The HTTP call on whose behalf the current task runs."""
