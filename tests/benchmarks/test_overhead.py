"""The benchmark itself, on a real cluster: only what is exact is asserted, since times belong to the machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.tables import TARGETS


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_a_quick_run_loses_nothing_and_tells_every_figure(tmp_path: Path) -> None:
    file = tmp_path / "overhead.json"
    command = [sys.executable, "-m", "benchmarks.overhead", "--quick", "--seed", "7", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    assert (result["lost"], result["failed"], result["seed"]) == (0, 0, 7)
    assert {target.key for target in TARGETS} <= result.keys()
    assert result["throughput_ratio_vllm"] is None  # a quick run leaves it out
    assert {"gateway", "haproxy", "actors", "serve controller"} <= result["idle"]["cpu_ms_per_s"].keys()
    assert result["conditions"]["machine"]["cores"] == os.cpu_count()
    for name, workload in result["workloads"].items():
        assert workload["calls"] > 0, name
        per = "chunk" if name.startswith("stream") else "call"
        assert workload[f"cpu_us_per_{per}"]["gateway"] > 0, name
