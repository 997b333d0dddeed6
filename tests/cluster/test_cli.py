import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app, main
from policies.identity import KeyRing, digest
from tests.cluster.test_config import ROOT, written


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_validate_says_ok() -> None:
    assert run("validate", "--config", str(ROOT / "ray_config.yaml")) == "ok\n"


def test_validate_lists_every_fault_and_leaves_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "pools: []\nnonsense: 1")
    monkeypatch.setattr("sys.argv", ["themis", "validate", "--config", str(path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_new_key_is_shown_with_an_entry_that_opens_for_it() -> None:
    import yaml

    from policies.identity import KeyConfig

    out = run("key", "new", "--name", 'my "laptop"', "--tenant", "ops: 1")
    found = re.match(r"sk-themis-\S+", out)
    assert found
    entry = yaml.safe_load(out.removeprefix(found[0]))
    assert entry == [{"name": 'my "laptop"', "sha256": digest(found[0]), "tenant": "ops: 1"}]
    principal = KeyRing([KeyConfig(**entry[0])]).identify(f"Bearer {found[0]}")
    assert principal.tenant == "ops: 1"


def test_down_says_when_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEMIS_STATE", str(tmp_path))
    assert run("down") == "nothing runs\n"


def test_status_says_when_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THEMIS_STATE", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["themis", "status"])
    with pytest.raises(SystemExit) as left:
        main()
    assert "does not run here" in str(left.value.code)
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
