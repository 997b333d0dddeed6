"""One answer in the making: draws its tokens, turns them into text, and knows when it ends.

Knows no time and no client. Stop strings never appear, not even in part: text that may become one is held back.
"""

from typing import NamedTuple

from deployments.engines.simulated.guided import document
from deployments.engines.simulated.requests import Plan, Tool
from deployments.engines.simulated.scheduler import Sequence
from deployments.engines.simulated.tokens import EOS, Detokenizer, encode
from deployments.engines.simulated.weights import Weights


class Piece(NamedTuple):
    """One token, the text that became certain with it, and, at the end, why it ended."""

    choice: "Choice"
    token: int
    text: str
    finish: str | None
    logprobs: list[tuple[int, float]] | None


class Choice(Sequence):
    """Mutable state: ids, text held back, and the finish; changed by `advance` only."""

    def __init__(self, plan: Plan, weights: Weights, adapter: str | None, number: int, max_tokens: int) -> None:
        """`number` is prompt number * n + index, as the API numbers choices."""
        prompt, index = divmod(number, plan.n)
        ids = plan.prompts[prompt]
        root = hash((weights.key, plan.salt))
        super().__init__(ids=list(ids), root=root, adapter=adapter, priority=plan.priority)
        self.number = number
        self.prompt = prompt
        self.prompt_tokens = len(ids)
        self.finish: str | None = None
        self.stop_reason: str | None = None
        self.tool: Tool | None = None
        self.skipped = 0  # steps without a token, while a fault slows the call
        self._plan = plan
        self._end = len(ids) + max_tokens
        # As vLLM does, so that a choice of several can be had again, or continued, alone.
        self._sampler = weights.sampler(ids, None if plan.seed is None else plan.seed + index)
        self._text = Detokenizer()
        self._held = ""
        self._hold = max(map(len, plan.stops), default=1) - 1
        self._guide = iter(self._document()) if plan.guided else None

    @property
    def generated(self) -> int:
        return len(self.ids) - self.prompt_tokens

    def _document(self) -> list[int]:
        entropy = self._sampler.entropy()
        tools = self._plan.tools
        self.tool = tools[entropy % len(tools)] if tools else None
        return encode(document(self.tool.parameters if self.tool else self._plan.schema, entropy))

    def advance(self) -> Piece:
        """The next token. Not to be called after one with a finish."""
        token = self._draw()
        plan = self._plan
        logprobs = None if plan.logprobs is None else self._sampler.logprobs(token, plan.logprobs)
        self._sampler.push(token)
        self.ids.append(token)
        text = self._text.feed(token)
        if token == EOS and not plan.ignore_eos:
            self.finish = "tool_calls" if self.tool else "stop"
        elif len(self.ids) >= self._end:
            self.finish = "length"
        if self.finish:
            text += self._text.flush()
        return Piece(self, token, self._release(text) if plan.stops else text, self.finish, logprobs)

    def _draw(self) -> int:
        may_end = not self._plan.ignore_eos and self.generated >= self._plan.min_tokens
        drawn = self._sampler.draw(may_end=may_end)
        return drawn if self._guide is None else next(self._guide, EOS)

    def _release(self, text: str) -> str:
        """Text that is certain not to be part of a stop string; ends the answer where one is complete."""
        self._held += text
        found = [(place, stop) for stop in self._plan.stops if (place := self._held.find(stop)) >= 0]
        if found:
            place, self.stop_reason = min(found)
            self.finish = "stop"
            return self._held[:place]
        cut = len(self._held) if self.finish else max(0, len(self._held) - self._hold)
        text, self._held = self._held[:cut], self._held[cut:]
        return text
