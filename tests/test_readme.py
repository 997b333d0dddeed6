"""The README tells the truth: its commands exist, its config is valid, its first two minutes work on the real thing."""

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster import processes
from cluster.config import ThemisConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
THEMIS = [sys.executable, "-m", "cluster.cli"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_it_is_under_200_lines_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 200
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link


def test_files_it_names_exist() -> None:
    for name in re.findall(r"`((?:cluster|deployments|policies|adapters)/[^`]+)`", README):
        for path in _braces(name):
            assert (ROOT / path).exists(), path


def _braces(name: str) -> list[str]:
    if "{" not in name:
        return [name]
    head, rest = name.split("{", 1)
    middle, tail = rest.split("}", 1)
    return [f"{head}{one}{tail}" for one in middle.split(",")]


def test_its_config_is_valid() -> None:
    for text in blocks("yaml"):
        ThemisConfig.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize("line", [line for text in blocks("console") for line in text.splitlines() if line])
def test_its_commands_exist(line: str) -> None:
    """Make targets by a dry run, modules by their help, configs by validation."""
    words = shlex.split(line)
    if words[0] == "make":
        subprocess.run(["make", "--dry-run", words[1]], cwd=ROOT, check=True, capture_output=True)
    elif words[:2] == ["serve", "deploy"]:
        subprocess.run([*THEMIS, "validate", "--config", words[2]], cwd=ROOT, check=True, capture_output=True)
    else:
        assert words[:2] == [".venv/bin/python", "-m"]
        subprocess.run([sys.executable, "-m", words[2], "--help"], cwd=ROOT, check=True, capture_output=True)


class Served:
    """`make serve`'s last step, as a person runs it."""

    def __init__(self, process: "subprocess.Popen[str]", state: Path) -> None:
        self.process = process
        self.state = state
        self.printed: list[str] = []
        began = time.monotonic()
        assert process.stdout
        for line in process.stdout:
            self.printed.append(line.rstrip("\n"))
            if line.startswith("curl "):
                break
        self.started_in_s = time.monotonic() - began

    def said(self, prefix: str) -> str:
        return next(line for line in self.printed if line.startswith(prefix))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    state = tmp_path_factory.mktemp("state")
    process = subprocess.Popen(
        [*THEMIS, "up"],
        cwd=ROOT,
        env=os.environ | {"THEMIS_STATE": str(state)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield Served(process, state)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.mark.vllm
@pytest.mark.cluster
@pytest.mark.timeout(600)
class TestServe:
    """In order, on one start."""

    def test_it_says_ready_and_the_pasted_curl_line_is_answered(self, served: Served) -> None:
        assert served.said("ready: ") == "ready: http://127.0.0.1:8000/v1", served.printed
        answer = subprocess.run(["bash", "-c", served.said("curl ")], check=True, capture_output=True, text=True)
        assert '"content":"' in answer.stdout, answer.stdout

    def test_the_python_block_runs_and_the_adapter_speaks(self, served: Served) -> None:
        (text,) = blocks("python")
        ast.parse(text)
        script = f"KEY = {served.said('key: ').removeprefix('key: ')!r}\n{text}"
        answer = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        assert "Arrr" in answer.stdout, answer.stdout

    def test_status_shows_the_pool(self, served: Served) -> None:
        environment = os.environ | {"THEMIS_STATE": str(served.state)}
        shown = subprocess.run(
            [*THEMIS, "status"], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        )
        assert re.search(r"smollm2 +1 +0 +0", shown.stdout), shown.stdout

    def test_ctrl_c_ends_all_of_it_within_20_s(self, served: Served) -> None:
        began = time.monotonic()
        os.killpg(served.process.pid, signal.SIGINT)
        served.process.wait(timeout=30)
        assert time.monotonic() - began < 20
        assert served.process.returncode == 0
        assert processes.ours(str(served.state)) == []
