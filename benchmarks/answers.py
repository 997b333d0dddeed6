"""What came back on one connection, read after the clock has stopped: is it whole, is it right, when did what arrive.

It knows HTTP/1.1 framing and OpenAI's bodies, and takes no time itself.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import orjson

_HEAD_END = b"\r\n\r\n"
_DONE = b"[DONE]"


class Wrong(Exception):
    """A complete answer that is not the one that was asked for."""


@dataclass(slots=True)
class Exchange:
    """One call as the socket saw it: when it was sent, and what arrived when. `whole`: the answer came to its end."""

    sent_at: float
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """A right answer: seconds at which each chunk with content arrived (one for a unary answer), and its tokens."""

    sent_at: float
    arrivals: Sequence[float]
    tokens: int

    @property
    def latency_ms(self) -> float:
        return 1000 * (self.arrivals[-1] - self.sent_at)

    @property
    def ttft_ms(self) -> float:
        return 1000 * (self.arrivals[0] - self.sent_at)

    @property
    def gaps_ms(self) -> list[float]:
        return [1000 * (later - earlier) for earlier, later in pairwise(self.arrivals)]


def read(exchange: Exchange, *, stream: bool, tokens: int, by_usage: bool) -> Reading:
    """Raises Wrong unless the answer has exactly `tokens` tokens.

    A stream's tokens are its chunks, or, `by_usage`, what its last chunk tells: an engine may put two into one chunk.
    """
    raw = b"".join(data for _, data in exchange.parts)
    head, body_at = _head(raw)
    spans = list(_chunks(raw, body_at)) if b"\r\ntransfer-encoding: chunked" in head.lower() else [(body_at, len(raw))]
    body = b"".join(raw[start:stop] for start, stop in spans)
    if not head.startswith(b"HTTP/1.1 200"):
        raise Wrong(f"{head.partition(_HEAD_END[:2])[0].decode('latin-1')}: {body[:200].decode('utf-8', 'replace')}")
    clock = _Clock(exchange.parts, spans)
    if stream:
        arrivals, counted = _stream(body, clock)
        told = counted if by_usage else len(arrivals)
    else:
        arrivals, told = [exchange.parts[-1][0]], _unary(body)
    if told != tokens or not arrivals:
        raise Wrong(f"{told} tokens instead of {tokens}")
    return Reading(exchange.sent_at, arrivals, tokens)


class _Clock:
    """When a byte of the body arrived."""

    def __init__(self, parts: Sequence[tuple[float, bytes]], spans: Sequence[tuple[int, int]]) -> None:
        self._times = [time for time, _ in parts]
        self._raw_ends = list(accumulate(len(data) for _, data in parts))
        self._spans = spans
        self._body_ends = list(accumulate(stop - start for start, stop in spans))

    def arrival(self, end: int) -> float:
        """Of the body's first `end` bytes."""
        span = bisect_left(self._body_ends, end)
        raw_end = self._spans[span][1] - (self._body_ends[span] - end)
        return self._times[bisect_left(self._raw_ends, raw_end)]


def _head(raw: bytes) -> tuple[bytes, int]:
    end = raw.find(_HEAD_END)
    if end < 0:
        raise Wrong("no HTTP head")
    return raw[: end + 2], end + len(_HEAD_END)


def _chunks(raw: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Where the payloads of a chunked body lie."""
    while True:
        line_end = raw.index(b"\r\n", at)
        size = int(raw[at:line_end], 16)
        if not size:
            return
        yield line_end + 2, line_end + 2 + size
        at = line_end + 2 + size + 2


def _stream(body: bytes, clock: _Clock) -> tuple[list[float], int]:
    """When each chunk with content arrived, and the tokens that the usage tells."""
    arrivals: list[float] = []
    told, last, start = 0, b"", 0
    while (end := body.find(b"\n\n", start)) >= 0:
        data = _data(body[start:end])
        start = end + 2
        if data is None:
            continue
        last = data
        if data == _DONE:
            continue
        chunk = _json(data)
        if usage := chunk.get("usage"):
            told = usage["completion_tokens"]
        if any(choice["delta"].get("content") for choice in chunk["choices"]):
            arrivals.append(clock.arrival(start))
    if last != _DONE:
        raise Wrong("the stream does not end with [DONE]")
    return arrivals, told


def _data(event: bytes) -> bytes | None:
    """The payload of one event; None for comments, which the direct leg sees: the gateway cuts them out."""
    for line in event.split(b"\n"):
        if line.startswith(b"data: "):
            return line[6:]
    return None


def _unary(body: bytes) -> int:
    answer = _json(body)
    if not answer["choices"][0]["message"]["content"]:
        raise Wrong("an empty answer")
    return int(answer["usage"]["completion_tokens"])


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Wrong(f"no JSON: {data[:200]!r}") from error
