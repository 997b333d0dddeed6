"""A running Themis for tests: the launcher as a person's terminal runs it, an operator beside it, and what it shows."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import processes
from deployments.engines.lifeline import tie_to
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


def free_low_ports(number: int) -> list[int]:
    """Below those that `ray start` gives its workers, and refuses to take for anything else."""
    found = []
    for port in range(6400, 10_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == number:
            break
    return found


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
            # A killed test run leaves no cluster: its launcher goes with it, and the guard ends the rest.
            preexec_fn=partial(tie_to, os.getpid()),  # noqa: PLW1509 - one system call, no lock
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


def document(port: int, pools: Sequence[dict[str, Any]], **application: Any) -> dict[str, Any]:
    """A Ray Serve config of our graph; `application` are more fields of its application."""
    gateway = {"passthrough": ["ignore_eos"], "max_wait_s": 10, "drain_s": 30}
    args = {"gateway": gateway, "pools": pools, **application.pop("args", {})}
    graph = {"name": "themis", "import_path": "cluster.app:build", "route_prefix": "/", "args": args}
    http = {"host": "127.0.0.1", "port": port}
    return {"proxy_location": "HeadOnly", "http_options": http, "applications": [{**graph, **application}]}


def pool(name: str = "sim", *, replicas: int = 1, drain_s: float = 30, seed: int = 0) -> dict[str, Any]:
    """A simulated model that takes little of this machine."""
    return {
        "name": name,
        "engine": {"kind": "simulated", "decode_ms": 20, "max_running": 8, "seed": seed},
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
    pools: Sequence[dict[str, Any]]
    operator: "subprocess.Popen[str]"

    @cached_property
    def secret(self) -> str:
        """What engine ports demand."""
        return str(self.ask("secret"))

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

    def deploy(self, pools: Sequence[dict[str, Any]] | None = None, **application: Any) -> None:
        """Updates what runs, as `serve deploy` does; returns before that is done."""
        self.pools = self.pools if pools is None else pools
        path = self.folder / "redeploy.yaml"
        path.write_text(json.dumps(document(self.port, self.pools, **application)))
        self.ask("deploy", str(path))

    def replicas(self) -> list[dict[str, Any]]:
        """What `themis status` shows of each replica of `sim`."""
        found: list[dict[str, Any]] = self.ask("status")["pools"].get("sim", {"replicas": []})["replicas"]
        return found

    def ready(self) -> list[str]:
        return [replica["id"] for replica in self.replicas() if replica["state"] == "ready"]

    def state_of(self, replica_id: str) -> str:
        states: dict[str, str] = {replica["id"]: replica["state"] for replica in self.replicas()}
        return states.get(replica_id, "gone")

    def active(self) -> int:
        """Calls that gateways have at replicas."""
        return sum(gateway["active"] for gateway in self.ask("status")["gateways"])

    def engine_calls(self) -> int:
        """Calls in the engines of `sim`, as these say themselves."""
        return sum(self.engines().values())

    def engines(self) -> dict[str, int]:
        """The same by replica."""
        return {replica["id"]: self._calls_at(replica["address"]) for replica in self.replicas()}

    def _calls_at(self, address: str) -> int:
        request = urllib.request.Request(f"{address}/simulated/state", headers={"x-themis-secret": self.secret})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                state = json.load(answer)
        except OSError:  # a replica that was just killed has no call
            return 0
        return int(state["running"] + state["waiting"])

    def titled(self, title: str) -> list[psutil.Process]:
        """The cluster's processes whose title begins so."""
        found = []
        for each in self.launcher.ours():
            with suppress(psutil.Error):  # it ended meanwhile
                if " ".join(each.cmdline()).startswith(title):
                    found.append(each)
        return found


def answer(operator: "subprocess.Popen[str]", limit_s: float = 60) -> Any:
    assert operator.stdout
    while select.select([operator.stdout], [], [], limit_s)[0] and (line := operator.stdout.readline()):
        if line.startswith("answer: "):
            return json.loads(line.removeprefix("answer: "))
    pytest.fail("the operator does not answer")


@contextmanager
def cluster(folder: Path, pools: Sequence[dict[str, Any]], *flags: str) -> Iterator[Cluster]:
    """Starts Themis and an operator; ends both, with whatever is left of them."""
    port = free_port()
    path = folder / "config.yaml"
    path.write_text(json.dumps(document(port, pools)))
    with launched(folder / "state", path, *flags) as launcher:
        launcher.until("ready: ")
        key = launcher.until("key: ").removeprefix("key: ")
        with _operator(launcher) as operator:
            answer(operator)
            yield Cluster(launcher, port, key, folder, pools, operator)


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


@contextmanager
def plain_ray(folder: Path) -> Iterator[str]:
    """A Ray head with a dashboard, started without us and without our flags; yields the dashboard's address."""
    gcs, dashboard, client, agent = free_low_ports(4)
    flags = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address", "127.0.0.1", "--port", str(gcs), "--num-cpus", "2"),
        *("--include-dashboard", "true", "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)),
        *("--dashboard-agent-listen-port", str(agent), "--ray-client-server-port", str(client)),
        *("--object-store-memory", str(200 * 2**20), "--temp-dir", str(folder)),
    ]
    environment = os.environ | flags | processes.mark(folder)
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        try:
            address = f"http://127.0.0.1:{dashboard}"
            assert eventually(lambda: answers(f"{address}/api/version"), 40)
            yield address
        finally:
            processes.end(str(folder))


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
