"""How quickly is a call over when its client leaves, and how quickly is one refused when all is full?

The whole path without Ray (gateway, shell, simulated engine over real sockets, in one process): a client that leaves at
a random moment of its stream, and calls beyond the waiting room's bound. Counts what is left behind: nothing may be.
"""

import argparse
import asyncio
import gc
import random
import time
from pathlib import Path as File
from typing import Any

import aiohttp

from benchmarks import report
from benchmarks.report import Target
from deployments.config import GatewayConfig
from tests.path.cluster import Path, idle, running, simulated, until

TARGETS = (
    Target("slot_freed_ms_p99", "ms", 50, 10),
    Target("refused_ms_p99", "ms", 20, 10),
    Target("left_behind", "calls", 0, 0),
)
_GATEWAY = GatewayConfig(passthrough=("ignore_eos",), max_waiting=4, max_wait_s=60)
_PAYLOAD = {"model": "sim", "prompt": "x", "max_tokens": 6000, "ignore_eos": True, "stream": True}
_CONCURRENCY = 16


async def leave(path: Path, calls: int, rng: random.Random) -> list[float]:
    """Milliseconds from each client's leaving to its slot in the engine being free."""
    engine: Any = path.servers[0]._engine  # noqa: SLF001 - the witness
    left_at: dict[str, float] = {}
    gate = asyncio.Semaphore(_CONCURRENCY)

    async def call(session: aiohttp.ClientSession, stay_s: float) -> None:
        async with gate, session.post(f"{path.url}/completions", json=_PAYLOAD, headers=path.headers) as answer:
            await answer.content.readany()
            await asyncio.sleep(stay_s)
            left_at[answer.headers["x-themis-call-id"]] = time.monotonic()
            answer.close()

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(call(session, rng.uniform(0, 0.1)) for _ in range(calls)))
    await until(lambda: idle(path.servers[0]), "the engine is idle")
    freed = {abort.call: abort.freed for abort in engine.aborts}
    return [1000 * (freed[name] - at) for name, at in left_at.items()]


async def refuse(path: Path, calls: int) -> list[float]:
    """Milliseconds until a call beyond the bound is told so. One at a time, while all slots and places are taken."""
    async with aiohttp.ClientSession() as session:

        async def call() -> int:
            async with session.post(f"{path.url}/completions", json=_PAYLOAD, headers=path.headers) as answer:
                if answer.status == 200:
                    await answer.content.readany()
                    await asyncio.Event().wait()
                await answer.read()
                return answer.status

        slots = path.servers[0].report().slots
        holders = [asyncio.create_task(call()) for _ in range(slots + _GATEWAY.max_waiting)]
        pool = path.gateway.pools["sim"]
        await until(lambda: pool.waiting == _GATEWAY.max_waiting, "all places are taken")
        times = []
        for _ in range(calls):
            began = time.monotonic()
            assert await call() == 429
            times.append(1000 * (time.monotonic() - began))
        for holder in holders:
            holder.cancel()
        await asyncio.gather(*holders, return_exceptions=True)
    return times


async def measure(*, quick: bool, seed: int) -> dict[str, float]:
    calls = 200 if quick else 2000
    # Client, gateway and engine share this process: at 20 ms per token they leave it time to spare.
    async with running([simulated(max_running=_CONCURRENCY, decode_ms=20.0)], gateway=_GATEWAY) as path:
        gc.collect()
        gc.freeze()  # as Serve does in gateways and replicas: else each full collection stops all three for 60 to 90 ms
        freed = await leave(path, calls, random.Random(seed))
        refused = await refuse(path, calls)
        await path.at_rest()
        left_behind = path.gateway.records.active + path.servers[0].report().running
    return {
        "calls": calls,
        "slot_freed_ms_p50": quantile(freed, 0.5),
        "slot_freed_ms_p99": quantile(freed, 0.99),
        "refused_ms_p50": quantile(refused, 0.5),
        "refused_ms_p99": quantile(refused, 0.99),
        "left_behind": left_behind,
    }


def quantile(values: list[float], share: float) -> float:
    """The smallest value that is not below `share` of all."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    parser.add_argument("--json", type=File, help="also write the figures there")
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which clients leave")
    options = parser.parse_args()
    conditions = report.conditions()
    figures = asyncio.run(measure(quick=options.quick, seed=options.seed))
    rows = [
        [target.key, figures[target.key], target.floor, target.aim, target.verdict(figures[target.key])]
        for target in TARGETS
    ]
    print(report.table(["figure", "value", "floor", "aim", "verdict"], rows))
    if options.json:
        report.write(options.json, {"figures": figures, "conditions": conditions})


if __name__ == "__main__":
    main()
