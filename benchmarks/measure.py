"""Direct and through the gateway, in short slices that alternate, so that the drift of a machine cancels.

Runs slices and reduces them to figures; it knows no Ray, and what is measured only as two legs.
"""

import json
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.callers import Order
from benchmarks.load import LoadProcess, Tally
from benchmarks.processes import Usage, spent

PACE_FLOOR = 0.97
_WORDS = [
    "river",
    "stone",
    "lamp",
    "paper",
    "window",
    "bridge",
    "letter",
    "garden",
    "morning",
    "silver",
    "anchor",
    "tide",
]
_PROMPTS = 64
_PROMPT_WORDS = 24

Look = Callable[[], Sequence[Usage]]
Groups = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Workload:
    """One shape of load. decode_ms: the engine's nominal pace; None where the engine is as fast as it is."""

    name: str
    model: str
    stream: bool
    concurrency: int
    tokens: int
    decode_ms: float | None
    by_usage: bool = False


@dataclass(frozen=True, slots=True)
class Leg:
    """One way to the engine: a base address and the headers that open it."""

    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Length:
    """How long to measure. `rounds` pairs of slices; with `waves`, a slice is that many calls per caller instead."""

    rounds: int
    seconds: float
    waves: int | None = None
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class Round:
    """Two slices, one after the other. cpu_s: by group, over the gateway's slice, which took `cpu_wall_s`."""

    direct: Tally
    gateway: Tally
    cpu_s: Groups
    cpu_wall_s: float


@dataclass(frozen=True, slots=True)
class Idle:
    """CPU milliseconds per second that each group takes while nobody calls."""

    ms_per_s: Groups

    @property
    def total(self) -> float:
        return sum(self.ms_per_s.values())


class Bench:
    """One load generator, one look at the processes. `uncounted` are groups that are not the gateway's cost."""

    def __init__(self, load: LoadProcess, look: Look, uncounted: frozenset[str], seed: int) -> None:
        self._load = load
        self._look = look
        self._uncounted = uncounted
        self._seed = seed

    def idle(self, seconds: float) -> Idle:
        began, before = time.perf_counter(), self._look()
        time.sleep(seconds)
        after, took = self._look(), time.perf_counter() - began
        cost = self._counted(spent(before, after))
        return Idle({group: round(1000 * value / took, 2) for group, value in cost.items()})

    def measure(self, workload: Workload, direct: Leg, gateway: Leg, length: Length) -> list[Round]:
        """The first attempt whose direct pace was held, or else the last one."""
        bodies = requests(workload, self._seed)
        for leg in (direct, gateway):
            self._load.run(_order(workload, leg, bodies, Length(1, min(0.5, length.seconds), length.waves and 1)))
        rounds: list[Round] = []
        for _ in range(length.attempts):
            rounds = [self._round(workload, direct, gateway, bodies, length) for _ in range(length.rounds)]
            if counts(pace_held(workload, rounds)):
                break
        return rounds

    def _round(self, workload: Workload, direct: Leg, gateway: Leg, bodies: Sequence[str], length: Length) -> Round:
        one = self._load.run(_order(workload, direct, bodies, length))
        began, before = time.perf_counter(), self._look()
        other = self._load.run(_order(workload, gateway, bodies, length))
        after, took = self._look(), time.perf_counter() - began
        return Round(one, other, self._counted(spent(before, after)), took)

    def _counted(self, seconds: Groups) -> Groups:
        return {group: value for group, value in seconds.items() if group not in self._uncounted}


def requests(workload: Workload, seed: int) -> list[str]:
    """The bodies of a workload; the same seed makes the same."""
    rng = random.Random(f"{seed} {workload.name}")
    prompts = [" ".join(rng.choices(_WORDS, k=_PROMPT_WORDS)) for _ in range(_PROMPTS)]
    return [json.dumps(_body(workload, prompt)) for prompt in prompts]


def _body(workload: Workload, prompt: str) -> dict[str, object]:
    body: dict[str, object] = {
        "model": workload.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": workload.tokens,
        "ignore_eos": True,
        "stream": workload.stream,
    }
    if workload.stream and workload.by_usage:
        body["stream_options"] = {"include_usage": True}
    return body


def _order(workload: Workload, leg: Leg, bodies: Sequence[str], length: Length) -> Order:
    return Order(
        url=f"{leg.url}/v1/chat/completions",
        headers=leg.headers,
        bodies=bodies,
        stream=workload.stream,
        tokens=workload.tokens,
        concurrency=workload.concurrency,
        seconds=length.seconds,
        calls=length.waves and length.waves * workload.concurrency,
        by_usage=workload.by_usage,
    )


def pace_held(workload: Workload, rounds: Sequence[Round]) -> float | None:
    """The nominal time between two chunks as a share of what it was without a gateway; None where there is none."""
    if not workload.stream or workload.decode_ms is None:
        return None
    paces = [statistics.mean(each.direct.pace_ms) for each in rounds if each.direct.pace_ms]
    return round(workload.decode_ms / statistics.median(paces), 4) if paces else 0.0


def counts(pace: float | None) -> bool:
    return pace is None or pace >= PACE_FLOOR


def figures(workload: Workload, rounds: Sequence[Round], idle: Idle) -> dict[str, object]:
    """All that one workload tells; added figures are medians over the rounds' differences."""
    pace = pace_held(workload, rounds)
    per = "chunk" if workload.stream else "call"
    result: dict[str, object] = {
        "concurrency": workload.concurrency,
        "decode_ms": workload.decode_ms,
        "tokens": workload.tokens,
        "counts": counts(pace),
        "pace_held": pace,
        "calls": sum(each.direct.calls + each.gateway.calls for each in rounds),
        "failed": sum(each.direct.failed + each.gateway.failed for each in rounds),
        "lost": sum(each.direct.lost + each.gateway.lost for each in rounds),
        "faults": [fault for each in rounds for fault in each.direct.faults + each.gateway.faults][:5],
        "tokens_per_s_direct": _median(each.direct.tokens / each.direct.wall_s for each in rounds),
        "tokens_per_s_gateway": _median(each.gateway.tokens / each.gateway.wall_s for each in rounds),
        "throughput_ratio": _median(_ratio(each) for each in rounds),
        "added_latency_ms_p50": added(rounds, "latency_ms", 0.5),
        f"cpu_us_per_{per}": cpu(rounds, workload.stream),
        f"cpu_us_per_{per}_net": cpu(rounds, workload.stream, idle),
        "client_cpu_us_per_chunk": _client(rounds),
    }
    for field, name in (("ttft_ms", "ttft"), ("gaps_ms", "itl")) if workload.stream else ():
        for rank in (0.5, 0.99):
            result[f"added_{name}_ms_p{100 * rank:.0f}"] = added(rounds, field, rank)
            result[f"direct_{name}_ms_p{100 * rank:.0f}"] = _median(
                percentile(getattr(each.direct, field), rank) for each in rounds if getattr(each.direct, field)
            )
    return result


def added(rounds: Sequence[Round], field: str, rank: float) -> float | None:
    """What the gateway adds to one percentile: the median over rounds of (through it - direct)."""
    return _median(
        percentile(getattr(each.gateway, field), rank) - percentile(getattr(each.direct, field), rank)
        for each in rounds
        if getattr(each.gateway, field) and getattr(each.direct, field)
    )


def cpu(rounds: Sequence[Round], stream: bool, idle: Idle | None = None) -> dict[str, float]:
    """CPU microseconds of one chunk (or unary call) by group, and their `sum`, of the round whose sum is the median.

    With `idle`, less what the same processes would have taken in the same time without any call.
    """
    each = [_cpu_of(one, stream, idle) for one in rounds]
    each = [groups for groups in each if groups]
    if not each:
        return {}
    return sorted(each, key=lambda groups: groups["sum"])[(len(each) - 1) // 2]


def _cpu_of(one: Round, stream: bool, idle: Idle | None) -> dict[str, float]:
    units = one.gateway.tokens if stream else one.gateway.calls
    if not units:
        return {}
    groups = {
        group: 1e6 * (seconds - (idle.ms_per_s.get(group, 0.0) / 1000 * one.cpu_wall_s if idle else 0.0)) / units
        for group, seconds in sorted(one.cpu_s.items())
    }
    return {group: round(value, 2) for group, value in {**groups, "sum": sum(groups.values())}.items()}


def percentile(values: Sequence[float], rank: float) -> float:
    """Linear between the two nearest ranks. Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    place = rank * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _ratio(one: Round) -> float:
    direct = one.direct.tokens / one.direct.wall_s
    return one.gateway.tokens / one.gateway.wall_s / direct if direct else 0.0


def _client(rounds: Sequence[Round]) -> float | None:
    tallies = [each.gateway for each in rounds if each.gateway.tokens]
    return _median(1e6 * tally.client_cpu_s / tally.tokens for tally in tallies)


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(statistics.median(found), 3) if found else None
