"""The simulated model: the next token as a pure function of (weights, ids so far, sampling).

So a continuation from prompt ids and generated ids equals the uninterrupted run, on every replica. Knows no time and
no batch.
"""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

from deployments.engines.simulated.tokens import EOS, THEMES, theme_ids

_EOS_ONE_IN = 200  # answers end by themselves after so many tokens on average
_LOGPROB_STEP = 1 / 128


class Sampler:
    """Draws the tokens of one choice. Mutable state: the running hash of all ids so far."""

    def __init__(self, key: bytes, words: tuple[int, ...], ids: Sequence[int]) -> None:
        self._hash = blake2b(array("I", ids).tobytes(), key=key, digest_size=8)
        self._words = words
        self._draw = 0

    def draw(self, *, may_end: bool) -> int:
        """The next token; only `push` moves on."""
        self._draw = self.entropy()
        if may_end and self._draw % _EOS_ONE_IN == 0:
            return EOS
        return self._words[(self._draw >> 16) % len(self._words)]

    def entropy(self) -> int:
        """A number as reproducible as the next token, for documents made in one piece."""
        return int.from_bytes(self._hash.digest(), "little")

    def push(self, token: int) -> None:
        self._hash.update(token.to_bytes(4, "little"))

    def logprobs(self, token: int, count: int) -> list[tuple[int, float]]:
        """The drawn token first, then `count` likeliest ones, of which it is the first."""
        first = -((self._draw >> 40) & 0xFF) * _LOGPROB_STEP
        others = [word for word in self._words if word != token]
        turn = self._draw % len(others)
        ranked = [token, *others[turn:], *others[:turn]][: max(count, 1)]
        return [(token, first), *((word, first - rank) for rank, word in enumerate(ranked))][: count + 1]


class Weights:
    """One set of weights: the model's own, or with an adapter. Adapters speak of another theme."""

    def __init__(self, seed: int, model: str, adapter: str = "") -> None:
        self.key = blake2b(f"{seed}\0{model}\0{adapter}".encode(), digest_size=16).digest()
        self._words = theme_ids(1 + self.key[0] % (len(THEMES) - 1) if adapter else 0)

    def sampler(self, ids: Sequence[int], seed: int | None) -> Sampler:
        """`seed` None is greedy decoding."""
        sampling = "greedy" if seed is None else str(seed)
        return Sampler(blake2b(self.key + sampling.encode(), digest_size=32).digest(), self._words, ids)
