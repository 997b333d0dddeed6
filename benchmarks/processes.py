"""Whose CPU and memory: every process of one cluster or one peer, by what it is for.

Client and engine are told apart, and are not counted as the gateway's cost.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

ENGINE = "engine"
GATEWAY = "gateway"

# The first match names the group. Ray writes `ray::Class` or `ray::ServeReplica:application:deployment` as the title.
_TITLES = (
    ("ray::ServeReplica:themis:gateway", GATEWAY),
    ("ray::ServeReplica:themis:pool-", ENGINE),
    ("ray::ServeController", "serve controller"),
    ("ray::ProxyActor", "fallback proxy"),
    ("ray::HAProxyManager", "haproxy manager"),
    ("ray::IDLE", "ray"),
    ("ray::DashboardAgent", "ray"),
    ("ray::RuntimeEnvAgent", "ray"),
    ("ray::", "actors"),
    ("VLLM::", ENGINE),
)
_NAMES = {"haproxy": "haproxy", "gcs_server": "ray", "raylet": "ray"}


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process has used since it began. `key` is its pid and start, so that a pid used again is another."""

    key: tuple[int, float]
    group: str
    cpu_s: float
    rss_bytes: int


def group_of(name: str, title: str) -> str:
    """What a process of the cluster is for."""
    for beginning, group in _TITLES:
        if title.startswith(beginning):
            return group
    if "/ray/" in title and "python" in title.partition(" ")[0]:
        return "ray"  # its agents and monitors
    return _NAMES.get(name, "launcher")


class Watched:
    """The processes that `select` finds, each time anew. Mutable state: their groups, which are looked up once."""

    def __init__(self, select: Callable[[], Iterable[psutil.Process]], group: Callable[[str, str], str]) -> None:
        self._select = select
        self._group = group

    def usages(self) -> list[Usage]:
        found = []
        for process in self._select():
            with suppress(psutil.NoSuchProcess), process.oneshot():
                times = process.cpu_times()
                found.append(
                    Usage(
                        (process.pid, process.create_time()),
                        self._group(process.name(), " ".join(process.cmdline())),
                        times.user + times.system,
                        process.memory_info().rss,
                    )
                )
        return found


def marked(name: str, value: str) -> list[psutil.Process]:
    """Every process of ours whose environment says so: whatever its parent is by now."""
    return [process for process in psutil.process_iter() if _environment(process).get(name, "").startswith(value)]


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that it has started."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def spent(before: Iterable[Usage], after: Iterable[Usage]) -> Mapping[str, float]:
    """CPU seconds by group between two looks. What began meanwhile counts whole; what ended, not at all."""
    known = {usage.key: usage.cpu_s for usage in before}
    seconds: Counter[str] = Counter()
    for usage in after:
        seconds[usage.group] += usage.cpu_s - known.get(usage.key, 0.0)  # type: ignore[assignment]
    return {group: round(value, 3) for group, value in seconds.items()}


def rss_mb(usages: Iterable[Usage], group: str) -> float:
    """The largest resident size of one process of a group, in 10^6 bytes."""
    return max((usage.rss_bytes for usage in usages if usage.group == group), default=0) / 1e6


def _environment(process: psutil.Process) -> Mapping[str, str]:
    if process.pid == os.getpid():
        return {}
    with suppress(psutil.Error):
        return process.environ()
    return {}
