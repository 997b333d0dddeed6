"""The overhead benchmark's figures that have a floor, and its tables. Reduces what was measured, measures nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import report
from benchmarks.measure import PACE_FLOOR
from benchmarks.report import Target

TARGETS = (
    Target("unary_cpu_ms", "ms", 1.3, 0.7),
    Target("chunk_cpu_us", "us", 130, 80),
    Target("added_ttft_ms_p50", "ms", 5, 2),
    Target("added_itl_ms_p99", "ms", 4, 1),
    Target("throughput_ratio_vllm", "", 0.95, 0.98, "higher"),
    Target("gateway_rss_mb", "MB", 250, 180),
)

_PER = ("call", "chunk")


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """The figures with a floor, and those beside them. None where the workload was not measured or does not count."""
    workloads: Mapping[str, Any] = result.get("workloads", {})
    unary, stream = _counted(workloads, "unary_c16"), _counted(workloads, "stream_c16")
    per_call, per_chunk = "cpu_us_per_call", "cpu_us_per_chunk"
    at_64 = {"unary": _counted(workloads, "unary_c64"), "stream": _counted(workloads, "stream_c64")}
    paces = [each["pace_held"] for each in workloads.values() if each["pace_held"] is not None]
    return {
        "unary_cpu_ms": _milli(unary.get(f"{per_call}_net", {}).get("sum")),
        "chunk_cpu_us": stream.get(f"{per_chunk}_net", {}).get("sum"),
        "added_ttft_ms_p50": _counted(workloads, "stream_c1").get("added_ttft_ms_p50"),
        "added_itl_ms_p99": stream.get("added_itl_ms_p99"),
        "throughput_ratio_vllm": _counted(workloads, "vllm_stream_c16").get("throughput_ratio"),
        "gateway_rss_mb": result.get("gateway_rss_mb"),
        "unary_cpu_with_idle_ms": _milli(unary.get(per_call, {}).get("sum")),
        "chunk_cpu_with_idle_us": stream.get(per_chunk, {}).get("sum"),
        "unary_cpu_ms_c64": _milli(at_64["unary"].get(f"{per_call}_net", {}).get("sum")),
        "chunk_cpu_us_c64": at_64["stream"].get(f"{per_chunk}_net", {}).get("sum"),
        "added_ttft_ms_p50_c64": at_64["stream"].get("added_ttft_ms_p50"),
        "added_itl_ms_p99_c64": at_64["stream"].get("added_itl_ms_p99"),
        "throughput_ratio_c64": at_64["stream"].get("throughput_ratio"),
        "pace_held": min(paces, default=None),
        "uncounted": [name for name, each in workloads.items() if not each["counts"]],
        "lost": sum(each["lost"] for each in workloads.values()),
        "failed": sum(each["failed"] for each in workloads.values()),
    }


def _counted(workloads: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = workloads.get(name, {})
    return found if found.get("counts") else {}


def _milli(micro: float | None) -> float | None:
    return None if micro is None else round(micro / 1000, 4)


def show(result: Mapping[str, Any]) -> None:
    """Prints every table there is something for."""
    if result["workloads"]:
        print(_workload_table(result["workloads"]), end="\n\n")
        print(_cpu_table(result), end="\n\n")
        print(report.targets(TARGETS, result), end="\n\n")
        if result.get("upstream"):
            print("--upstream: the replica is a second relay and counts, as `engine`; the floors are for one relay")
        if result["uncounted"]:
            print(f"pace_held < {PACE_FLOOR}, does not count: {', '.join(result['uncounted'])}")
        print(f"pace_held {result['pace_held']}, lost {result['lost']}, failed {result['failed']}")
    if "peers" in result:
        print(_peer_table(result["peers"]))


def _workload_table(workloads: Mapping[str, Any]) -> str:
    columns = (
        *("calls", "lost", "failed", "pace_held", "throughput_ratio", "added_latency_ms_p50", "added_ttft_ms_p50"),
        *("added_itl_ms_p50", "added_itl_ms_p99", "direct_itl_ms_p99"),
    )
    rows = [(name, *(each.get(column) for column in columns)) for name, each in workloads.items()]
    return report.table(("workload", *columns), rows)


def _cpu_table(result: Mapping[str, Any]) -> str:
    """Microseconds per call or chunk, without what the same processes take when idle; that in the last row."""
    workloads = result["workloads"]
    idle: Mapping[str, float] = result.get("idle", {}).get("cpu_ms_per_s", {})
    found_groups = {group for each in workloads.values() for per in _PER for group in each.get(f"cpu_us_per_{per}", {})}
    groups = [*sorted(found_groups - {"sum"}), "sum"]
    rows: list[Sequence[object]] = []
    for name, each in workloads.items():
        for per in _PER:
            if found := each.get(f"cpu_us_per_{per}_net"):
                with_idle = each[f"cpu_us_per_{per}"].get("sum")
                rows.append((f"{name}, us per {per}", *(found.get(group) for group in groups), with_idle))
    rows.append(("idle, ms per s", *(idle.get(group) for group in groups[:-1]), sum(idle.values()), None))
    return report.table(("CPU", *groups, "sum with idle"), rows)


def _peer_table(found: Mapping[str, Any]) -> str:
    rows: list[Sequence[object]] = []
    for name, each in found.items():
        if "error" in each:
            rows.append((f"{name} {each['version']}", each["error"].splitlines()[0][:80], *[None] * 6))
            continue
        unary, stream = each["workloads"]["unary_c16"], each["workloads"]["stream_c16"]
        rows.append(
            (
                f"{name} {each['version']}",
                _milli(unary["cpu_us_per_call_net"].get("sum")),
                stream["cpu_us_per_chunk_net"].get("sum"),
                stream["added_ttft_ms_p50"],
                stream["added_itl_ms_p99"],
                each["rss_mb"],
                unary["failed"] + stream["failed"] + unary["lost"] + stream["lost"],
                stream["pace_held"],
            )
        )
    head = (
        "peer, concurrency 16",
        "unary ms",
        "chunk us",
        "added ttft p50",
        "added itl p99",
        "MB",
        "wrong",
        "pace_held",
    )
    return report.table(head, rows)
