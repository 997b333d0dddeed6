"""The load generator: a process of its own, so that what the client costs is not counted, and as cheap as can be.

While a slice runs it only stamps what arrives; answers are checked when the clock has stopped. Each line of its
standard input is an order, each line of its output what came of it.
"""

import asyncio
import gc
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import orjson
import uvloop

from benchmarks.answers import Exchange, Reading, Wrong, read
from benchmarks.callers import Order, Slice

_FAULTS_TOLD = 3


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
    async def run() -> tuple[Slice, float]:
        slice_ = Slice(order)
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
