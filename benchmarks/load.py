"""The load generator: a process of its own, so that what the client costs is not counted, and as cheap as can be.

While a slice runs it only stamps what arrives; answers are checked when the clock has stopped. Each line of its
standard input is an order, each line of its output what came of it.
"""

import asyncio
import gc
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self, cast
from urllib.parse import urlsplit

import orjson
import uvloop

from benchmarks.answers import Exchange, Reading, Wrong, read

_CHUNKED_END = b"\r\n0\r\n\r\n"
_FAULTS_TOLD = 3
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
    patience_s: float = 20.0


@dataclass(slots=True)
class Tally:
    """What came of one slice. failed: answered, but wrongly; lost: never answered to the end."""

    calls: int = 0
    failed: int = 0
    lost: int = 0
    tokens: int = 0
    wall_s: float = 0.0
    client_cpu_s: float = 0.0
    latency_ms: list[float] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)
    gaps_ms: list[float] = field(default_factory=list)
    pace_ms: list[float] = field(default_factory=list)
    """Mean milliseconds between two chunks of one stream, for each stream."""
    faults: list[str] = field(default_factory=list)

    def add(self, reading: Reading) -> None:
        self.calls += 1
        self.tokens += reading.tokens
        self.latency_ms.append(round(reading.latency_ms, 3))
        if gaps := reading.gaps_ms:
            self.ttft_ms.append(round(reading.ttft_ms, 3))
            self.gaps_ms += [round(gap, 3) for gap in gaps]
            self.pace_ms.append(sum(gaps) / len(gaps))

    def fail(self, fault: str) -> None:
        self.failed += 1
        if len(self.faults) < _FAULTS_TOLD:
            self.faults.append(fault)


class LoadProcess:
    """The generator as the benchmark sees it."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        command = [sys.executable, "-m", "benchmarks.load"]
        # A session of its own: Ctrl-C is the benchmark's to handle, and this one ends when its input does.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            yield cls(process)

    def run(self, order: Order) -> Tally:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(orjson.dumps(order) + b"\n")
        self._process.stdin.flush()
        return Tally(**orjson.loads(self._process.stdout.readline()))


class _Caller(asyncio.Protocol):
    """One keep-alive connection with one call after the other. Mutable state: the call in hand, `_now`."""

    def __init__(self, slice_: "_Slice") -> None:
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


class _Slice:
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


def tally(exchanges: Sequence[Exchange], order: Order) -> Tally:
    """What the answers are worth."""
    result = Tally()
    for exchange in exchanges:
        if not exchange.whole:
            result.lost += 1
            continue
        try:
            result.add(read(exchange, stream=order.stream, tokens=order.tokens, by_usage=order.by_usage))
        except Wrong as wrong:
            result.fail(str(wrong))
    return result


def _carry_out(order: Order, runner: asyncio.Runner) -> Tally:
    async def run() -> tuple[_Slice, float]:
        slice_ = _Slice(order)
        return slice_, await slice_.run()

    gc.collect()
    gc.disable()  # a collection in the middle would look like a gap between two chunks
    cpu = time.process_time()
    try:
        slice_, wall_s = runner.run(run())
    finally:
        gc.enable()
    cpu = time.process_time() - cpu
    result = tally(slice_.exchanges, order)
    result.wall_s, result.client_cpu_s = wall_s, cpu
    return result


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin.buffer:
            result = _carry_out(Order(**orjson.loads(line)), runner)
            sys.stdout.buffer.write(orjson.dumps(result) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
