"""The life of a launcher, on an application without an engine. The real one is started by the tests of the whole."""

import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from cluster import processes
from cluster.state import AlreadyRunning, StateFolder
from tests.cluster.running import THEMIS, eventually, free_port, launched
from tests.cluster.test_config import ROOT


def config(folder: Path, port: int, pool: str = "tiny") -> Path:
    application = {
        "name": "themis",
        "import_path": "tests.cluster.tiny:build",
        "route_prefix": "/",
        "args": {"pools": [{"name": pool, "engine": {"kind": "simulated"}}]},
    }
    http = {"host": "127.0.0.1", "port": port}
    path = folder / f"{pool}.yaml"
    path.write_text(json.dumps({"proxy_location": "HeadOnly", "http_options": http, "applications": [application]}))
    return path


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_a_life(tmp_path: Path) -> None:
    """Ready means ready; nothing outlives a launcher, not even a killed one; the next start works; Ctrl-C ends all."""
    port = free_port()
    path = config(tmp_path, port)
    with launched(tmp_path / "state", path) as first:
        assert first.until("ready: ") == f"ready: http://127.0.0.1:{port}/v1"
        key = first.until("key: ").removeprefix("key: ")
        assert f"Bearer {key}" in first.until("curl ")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert json.load(answer) == ["local"]
        assert (tmp_path / "state" / "local.key").stat().st_mode & 0o077 == 0
        second = subprocess.run(
            [*THEMIS, "up", "--config", str(path)],
            cwd=ROOT,
            env=os.environ | {"THEMIS_STATE": str(tmp_path / "state")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 1
        assert f"runs already (pid {first.process.pid})" in second.stderr
        names = {process.name() for process in first.ours()}
        assert {"raylet", "gcs_server", "haproxy"} <= names
        first.process.kill()
        assert eventually(lambda: not first.ours(), 15)

    with launched(tmp_path / "state", path) as again:
        again.until("ready: ")
        assert again.until("key: ") == f"key: {key}"
        session = re.search(r"logs: (\S+)/logs", "\n".join(again.said))
        again.ctrl_c()
        assert again.process.wait(timeout=20) == 0
        assert again.ours() == []
        assert "stopped" in again.rest()
        assert session
        assert Path(session[1], "logs").is_dir()


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_an_application_that_fails_is_named_with_its_reason_and_leaves_nothing(tmp_path: Path) -> None:
    with launched(tmp_path / "state", config(tmp_path, free_port(), "broken")) as launcher:
        assert launcher.process.wait(timeout=120) == 1
        said = launcher.rest()
        assert "DEPLOY_FAILED" in said
        assert "the weights are made of cheese" in said
        assert launcher.ours() == []


def test_a_config_with_faults_starts_nothing(tmp_path: Path) -> None:
    with launched(tmp_path / "state", config(tmp_path, free_port(), "no name!")) as launcher:
        assert launcher.process.wait(timeout=30) == 2
        said = launcher.rest()
        assert "applications.0.args.pools.0.name" in said
        assert "starting" not in said


def test_anothers_process_on_the_port_is_named_and_left_alone(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with launched(tmp_path / "state", config(tmp_path, port)) as launcher:
            assert launcher.process.wait(timeout=30) == 1
            assert f"port {port} is taken by pid {os.getpid()}: " in launcher.rest()


def test_only_what_carries_the_mark_is_ended(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "print('up', flush=True); input()"]
    marks = [processes.mark(tmp_path), processes.mark(tmp_path / "other"), {}]
    started = [
        subprocess.Popen(sleeper, env=os.environ | each, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for each in marks
    ]
    try:
        for process in started:
            assert process.stdout
            process.stdout.readline()
        processes.end(str(tmp_path))
        assert [process.poll() is None for process in started] == [False, True, True]
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_one_launcher_per_state_folder(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    with state.held():
        assert state.is_held()
        with pytest.raises(AlreadyRunning):
            StateFolder(tmp_path).held().__enter__()
    assert not state.is_held()


def test_the_local_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    key = StateFolder(tmp_path).local_key()
    assert StateFolder(tmp_path).local_key() == key
    assert (tmp_path / "local.key").stat().st_mode & 0o777 == 0o600
