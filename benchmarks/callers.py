"""Callers that cost next to nothing: each has one connection, stamps what arrives, and calls again when it is answered.

They know where an HTTP/1.1 answer ends, and nothing of what it says.
"""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from benchmarks.answers import Exchange

_CHUNKED_END = b"\r\n0\r\n\r\n"
_RECONNECT_S = 0.05


@dataclass(frozen=True, slots=True)
class Order:
    """One slice: `concurrency` callers, each calling again as soon as it is answered, for so many seconds.

    bodies: requests, taken in turn. tokens: what each answer must have. by_usage: see `answers.read`.
    calls: end after so many, rather than by time. patience_s: a call unanswered so long after the end is lost.
    """

    url: str
    headers: Mapping[str, str]
    bodies: Sequence[str]
    stream: bool
    tokens: int
    concurrency: int
    seconds: float
    calls: int | None = None
    by_usage: bool = False
    patience_s: float = 30.0


class _Caller(asyncio.Protocol):
    """One keep-alive connection with one call after the other. Mutable state: the call in hand, `_now`."""

    def __init__(self, slice_: "Slice") -> None:
        self._slice = slice_
        self._transport: asyncio.Transport | None = None
        self._now: Exchange | None = None
        self._head: bytes | None = b""
        self._missing: int | None = None
        self._tail = b""
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def call(self) -> None:
        """Sends the next request, or leaves when the slice is over."""
        assert self._transport
        request = self._slice.next_request()
        if request is None:
            self._transport.close()
            return
        self._head, self._missing, self._tail = b"", None, b""
        self._now = Exchange(time.perf_counter())
        self._transport.write(request)

    def give_up(self) -> None:
        assert self._transport
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        now = self._now
        if now is None:
            return
        now.parts.append((time.perf_counter(), data))
        if self._ended(data):
            now.whole = True
            self._now = None
            self._slice.exchanges.append(now)
            if self._closing and self._transport:
                self._transport.close()
            else:
                self.call()

    def connection_lost(self, _: Exception | None) -> None:
        if self._now:
            self._slice.exchanges.append(self._now)
            self._now = None
        self._slice.left(self)

    def _ended(self, data: bytes) -> bool:
        if self._head is not None:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return False
            head, data = self._head[:end].lower(), self._head[end + 2 :]
            self._head = None
            self._closing = b"\r\nconnection: close" in head
            _, found, length = head.partition(b"\r\ncontent-length:")
            if found:
                self._missing = int(length.partition(b"\r\n")[0]) + 2  # the head's last line break is in `data`
        if self._missing is not None:
            self._missing -= len(data)
            return self._missing <= 0
        self._tail = (self._tail + data)[-len(_CHUNKED_END) :]
        return self._tail == _CHUNKED_END


class Slice:
    """One order on its way. Mutable state: `exchanges`, the requests taken, the callers that are there."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._requests = [_request(order, body) for body in order.bodies]
        self._taken = 0
        self._ends_at = 0.0
        self._callers: set[_Caller] = set()
        self._coming: set[asyncio.Task[None]] = set()
        self._all_left = asyncio.Event()
        self.exchanges: list[Exchange] = []

    async def run(self) -> float:
        """Connects, calls, and returns when the last call in hand has ended or patience has: the seconds of calls."""
        callers = [await self._connect() for _ in range(self._order.concurrency)]
        began = time.perf_counter()
        self._ends_at = began + self._order.seconds
        for caller in callers:
            caller.call()
        try:
            async with asyncio.timeout(self._order.seconds + self._order.patience_s):
                await self._all_left.wait()
        except TimeoutError:
            for caller in list(self._callers):
                caller.give_up()
            await self._all_left.wait()
        return time.perf_counter() - began

    @property
    def _over(self) -> bool:
        return time.perf_counter() >= self._ends_at or self._taken >= (self._order.calls or sys.maxsize)

    def next_request(self) -> bytes | None:
        if self._over:
            return None
        self._taken += 1
        return self._requests[self._taken % len(self._requests)]

    def left(self, caller: _Caller) -> None:
        """A caller's connection is closed. One that was cut before the end comes again."""
        if self._over:
            self._callers.discard(caller)
            if not self._callers:
                self._all_left.set()
            return
        task = asyncio.get_running_loop().create_task(self._replace(caller))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _replace(self, caller: _Caller) -> None:
        try:
            (await self._connect()).call()
        except OSError:
            await asyncio.sleep(_RECONNECT_S)
            self.left(caller)
            return
        self._callers.discard(caller)

    async def _connect(self) -> _Caller:
        address = urlsplit(self._order.url)
        loop = asyncio.get_running_loop()
        host, port = address.hostname or "127.0.0.1", address.port or 80
        _, caller = await loop.create_connection(lambda: _Caller(self), host, port)
        self._callers.add(caller)
        return caller


def _request(order: Order, body: str) -> bytes:
    address, payload = urlsplit(order.url), body.encode()
    headers = {
        "host": address.netloc,
        "content-type": "application/json",
        "content-length": str(len(payload)),
        **order.headers,
    }
    lines = [f"POST {address.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + payload
