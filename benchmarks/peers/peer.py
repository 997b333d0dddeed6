"""What every rival has in common: an environment made once from a lock with hashes, a life, and a port.

A rival runs with an environment of its own, too: nothing of the user's (keys, tokens, proxies) reaches it.
"""

import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import processes
from benchmarks.subject import SubjectFailed, end, free_ports

_HERE = Path(__file__).parent
_START_S = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rival is to run: the upstream's address, the ports to listen on, a folder for its files."""

    upstream: str
    port: int
    metrics_port: int
    folder: Path


@dataclass(frozen=True, slots=True)
class Peer:
    """name: its distribution. does: what it does of what Themis does. headers: what opens it."""

    name: str
    version: str
    does: str
    command: Callable[[Place], Sequence[str]]
    ready: str
    headers: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def lock(self) -> Path:
        return _HERE / f"{self.name.replace('-', '_')}.txt"


@dataclass(frozen=True, slots=True)
class RunningPeer:
    url: str
    watched: processes.Watched


@contextmanager
def running(peer: Peer, upstream: str) -> Iterator[RunningPeer]:
    """Installs the rival where that was not done yet, starts it, and ends it. Raises SubjectFailed."""
    home = installed(peer)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="themis-peer-")))
        port, metrics_port = free_ports(2)
        program, *arguments = peer.command(Place(upstream, port, metrics_port, folder))
        log = stack.enter_context((folder / "log").open("wb"))
        process = stack.enter_context(
            subprocess.Popen(
                [str(home / "bin" / program), *arguments],
                cwd=folder,
                env={"PATH": f"{home}/bin:/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8", **peer.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        )
        # Whom it started is known only while it lives.
        started = processes.tree(process.pid)
        stack.callback(end, process, lambda: [each for each in started if each.is_running()])
        _await_ready(peer, port, process, folder / "log")
        started[:] = processes.tree(process.pid)
        watched = processes.Watched(lambda: processes.tree(process.pid), lambda _name, _title: "proxy")
        yield RunningPeer(f"http://127.0.0.1:{port}", watched)


def installed(peer: Peer) -> Path:
    """The rival's environment; made on demand, with wheels only and every hash checked."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "themis" / "peers"
    home = cache / f"{peer.name}-{hashlib.sha256(peer.lock.read_bytes()).hexdigest()[:12]}"
    if (home / ".complete").exists():
        return home
    shutil.rmtree(home, ignore_errors=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = (
        [sys.executable, "-m", "venv", str(home)],
        [*pip, "--require-hashes", "--no-deps", "--only-binary", ":all:", "--requirement", str(peer.lock)],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SubjectFailed(f"{peer.name} {peer.version} cannot be installed: {done.stderr.strip()[-500:]}")
    (home / ".complete").touch()
    return home


def _await_ready(peer: Peer, port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", peer.ready, headers=dict(peer.headers))
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except (OSError, http.client.HTTPException):
            pass  # not yet
        finally:
            connection.close()
        time.sleep(0.2)
    raise SubjectFailed(f"{peer.name} {peer.version} did not get ready: {log.read_text()[-500:].strip()}")
