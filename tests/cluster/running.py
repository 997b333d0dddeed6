"""A running Themis for tests: the launcher as a person's terminal runs it, an operator beside it, and what it shows."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import processes
from tests.cluster.test_config import ROOT

THEMIS = [sys.executable, "-m", "cluster.cli"]
_HAPROXY_PORTS = (
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(holds: Callable[[], bool], limit_s: float) -> bool:
    """Waits for other processes, which no event tells us of as we are not their parent."""
    deadline = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class Launcher:
    """`themis up` as a person's terminal runs it: in a process group of its own."""

    def __init__(self, state: Path, path: Path, *flags: str) -> None:
        self.state = state
        self.environment = (
            os.environ | {"THEMIS_STATE": str(state)} | {name: str(free_port()) for name in _HAPROXY_PORTS}
        )
        self.process = subprocess.Popen(
            [*THEMIS, "up", "--config", str(path), *flags],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said: list[str] = []

    def until(self, start: str) -> str:
        """The next line that starts so. The output ends with the launcher, so this does too."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))
            if line.startswith(start):
                return self.said[-1]
        pytest.fail("the launcher ended: " + "\n".join(self.said))

    def rest(self) -> str:
        assert self.process.stdout
        with self.process.stdout:
            self.said += self.process.stdout.read().splitlines()
        return "\n".join(self.said)

    def ctrl_c(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def ours(self) -> list[psutil.Process]:
        return processes.ours(str(self.state.resolve()))


@contextmanager
def launched(state: Path, path: Path, *flags: str) -> Iterator[Launcher]:
    launcher = Launcher(state, path, *flags)
    try:
        yield launcher
    finally:
        if launcher.process.poll() is None:
            launcher.process.kill()
        launcher.process.wait()
        if launcher.process.stdout:
            launcher.process.stdout.close()
        processes.end(str(state.resolve()))


def document(port: int, pools: Sequence[dict[str, Any]], **gateway: Any) -> dict[str, Any]:
    """A Ray Serve config of our graph."""
    args = {"gateway": {"passthrough": ["ignore_eos"], "max_wait_s": 10, "drain_s": 30, **gateway}, "pools": pools}
    application = {"name": "themis", "import_path": "cluster.app:build", "route_prefix": "/", "args": args}
    http = {"host": "127.0.0.1", "port": port}
    return {"proxy_location": "HeadOnly", "http_options": http, "applications": [application]}


def pool(replicas: int = 1, drain_s: float = 30, **engine: Any) -> dict[str, Any]:
    """One simulated model that takes little of this machine; `engine` are fields of SimulatedEngine."""
    return {
        "name": "sim",
        "engine": {"kind": "simulated", "decode_ms": 20, "max_running": 8, **engine},
        "replicas": {"min": replicas, "max": replicas},
        "resources": {"cpus": 0.1},
        "drain_s": drain_s,
    }


@dataclass
class Cluster:
    """A running Themis and its operator. `url` has no path."""

    launcher: Launcher
    port: int
    key: str
    folder: Path
    operator: "subprocess.Popen[str]" = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def ask(self, command: str, *args: Any) -> Any:
        """What the operator answers to one of its commands."""
        assert self.operator.stdin
        self.operator.stdin.write(json.dumps([command, *args]) + "\n")
        self.operator.stdin.flush()
        return answer(self.operator)

    def deploy(self, config: dict[str, Any]) -> None:
        path = self.folder / "redeploy.yaml"
        path.write_text(json.dumps(config))
        self.ask("deploy", str(path))

    def replicas(self) -> list[dict[str, Any]]:
        """What `themis status` shows of each replica of the pool."""
        found: list[dict[str, Any]] = self.ask("status")["pools"].get("sim", {"replicas": []})["replicas"]
        return found

    def ready(self) -> list[str]:
        return [replica["id"] for replica in self.replicas() if replica["state"] == "ready"]

    def titled(self, title: str) -> list[psutil.Process]:
        """The cluster's processes whose title begins so."""
        return [each for each in self.launcher.ours() if " ".join(each.cmdline()).startswith(title)]


def answer(operator: "subprocess.Popen[str]", limit_s: float = 60) -> Any:
    assert operator.stdout
    while select.select([operator.stdout], [], [], limit_s)[0] and (line := operator.stdout.readline()):
        if line.startswith("answer: "):
            return json.loads(line.removeprefix("answer: "))
    pytest.fail("the operator does not answer")


@contextmanager
def cluster(folder: Path, pools: Sequence[dict[str, Any]], *flags: str, **gateway: Any) -> Iterator[Cluster]:
    """Starts Themis and an operator; ends both, with whatever is left of them."""
    port = free_port()
    path = folder / "config.yaml"
    path.write_text(json.dumps(document(port, pools, **gateway)))
    with launched(folder / "state", path, *flags) as launcher:
        launcher.until("ready: ")
        key = launcher.until("key: ").removeprefix("key: ")
        with _operator(launcher) as operator:
            answer(operator)
            yield Cluster(launcher, port, key, folder, operator)


@contextmanager
def _operator(launcher: Launcher) -> Iterator["subprocess.Popen[str]"]:
    (raylet,) = [each for each in launcher.ours() if each.name() == "raylet"]
    flags = {name: value for name, value in raylet.environ().items() if name.startswith("RAY_")}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.operator"],
        cwd=ROOT,
        env=launcher.environment | flags,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as operator:
        try:
            yield operator
        finally:
            operator.kill()
