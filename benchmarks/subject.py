"""The system under test: a Themis of its own, beside any other on this machine, started by the launcher itself.

It has its own state folder and ports, and is ended, with all that it started, however the benchmark ends.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import processes

_STATE = "THEMIS_STATE"
_MARK = "THEMIS_STARTED_BY"  # as in cluster.processes
_START_S = 300.0
_STOP_S = 30.0
_PORTS = ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT")
_LAUNCH = "from cluster.cli import main; main()"


class SubjectFailed(Exception):
    """The system under test did not start."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A running Themis. engines: the replica's address by pool."""

    url: str
    key: str
    secret: str
    engines: Mapping[str, str]
    watched: processes.Watched
    started_in_s: float


def document(pools: Sequence[Mapping[str, Any]], port: int) -> dict[str, Any]:
    """The Ray Serve config: one gateway as in production, which lets `ignore_eos` pass so that lengths are exact."""
    args = {"gateway": {"passthrough": ["ignore_eos"]}, "pools": list(pools)}
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {"name": "themis", "import_path": "cluster.app:build", "route_prefix": "/", "args": args},
        ],
    }


@contextmanager
def running(pools: Sequence[Mapping[str, Any]]) -> Iterator[Subject]:
    """Starts Themis with these pools, and ends it. Raises SubjectFailed with what the launcher said."""
    with tempfile.TemporaryDirectory(prefix="themis-bench-") as folder:
        state = Path(folder).resolve() / "state"
        port, *others = free_ports(1 + len(_PORTS))
        config = Path(folder) / "ray_config.yaml"
        config.write_text(json.dumps(document(pools, port)))  # JSON is YAML
        environment = {**os.environ, _STATE: str(state), **dict(zip(_PORTS, map(str, others), strict=True))}
        began = time.monotonic()
        with _launched(config, environment, Path(folder) / "launcher.log") as (pid, key):
            told = _reveal(environment)
            yield Subject(
                url=f"http://127.0.0.1:{port}",
                key=key,
                secret=told["secret"],
                engines=told["engines"],
                watched=processes.Watched(lambda: _processes(pid, str(state)), processes.group_of),
                started_in_s=round(time.monotonic() - began, 1),
            )


@contextmanager
def _launched(config: Path, environment: Mapping[str, str], log: Path) -> Iterator[tuple[int, str]]:
    """The launcher's life; yields its pid and the API key that it printed."""
    command = [sys.executable, "-c", _LAUNCH, "up", "--config", str(config)]
    with ExitStack() as stack:
        errors = stack.enter_context(log.open("wb"))
        # A session of its own: Ctrl-C reaches the benchmark alone, which then stops the launcher in order.
        process = stack.enter_context(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=errors, bufsize=0, start_new_session=True
            )
        )
        stack.callback(end, process, lambda: processes.marked(_MARK, environment[_STATE]))
        yield process.pid, _await_key(process, log)


def _processes(launcher: int, state: str) -> list[psutil.Process]:
    """The launcher with its children, and whatever carries its mark: some of it has other parents."""
    found = {process.pid: process for process in [*processes.tree(launcher), *processes.marked(_MARK, state)]}
    return list(found.values())


def _await_key(process: "subprocess.Popen[bytes]", log: Path) -> str:
    said = ""
    for line in lines(process, _START_S):
        said += line
        if line.startswith("key: "):
            return line.removeprefix("key: ").strip()
    raise SubjectFailed(f"the launcher did not get ready within {_START_S:.0f} s:\n{said}{log.read_text()[-4000:]}")


def lines(process: "subprocess.Popen[bytes]", within_s: float) -> Iterator[str]:
    """What a process says, line by line, until it ends or time is over. Its pipe must be unbuffered."""
    assert process.stdout
    deadline, rest = time.monotonic() + within_s, b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([process.stdout], [], [], left)[0]:
            return
        data = os.read(process.stdout.fileno(), 65536)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        yield from (line.decode("utf-8", "replace") + "\n" for line in whole)


def end(process: "subprocess.Popen[bytes]", remains: Callable[[], Iterable[psutil.Process]]) -> None:
    """Asks politely, waits, then kills what is left."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
    for left in remains():
        with suppress(psutil.NoSuchProcess):
            left.kill()


def free_ports(number: int) -> list[int]:
    """Ports that are free now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _reveal(environment: Mapping[str, str]) -> dict[str, Any]:
    """What the direct leg needs: asked by a process of its own, so that no Ray driver stays during the measurement."""
    command = [sys.executable, "-m", "benchmarks.subject"]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=60).stdout
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    return told


def _tell() -> None:
    from cluster import launch

    launch.connect()  # sets flags that Ray reads when it is imported

    import ray

    from cluster.directory import NAME, NAMESPACE, cluster_secret
    from policies.roster import Snapshot

    directory: Any = ray.get_actor(NAME, namespace=NAMESPACE)
    snapshot: Snapshot = ray.get(directory.snapshot.remote())
    engines = {replica.pool: replica.address for replica in snapshot.replicas}
    sys.stdout.write("\n" + json.dumps({"secret": cluster_secret(), "engines": engines}) + "\n")


if __name__ == "__main__":
    _tell()
