import json
from pathlib import Path
from typing import Any

import pytest

from adapters.integrity import Shape, digest, inspect

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "base"}


def written(folder: Path, config: Any = CONFIG, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def test_the_same_files_elsewhere_have_the_same_digest(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a"), written(tmp_path / "b")
    (second / "notes.md").write_text("what no engine reads changes nothing")
    assert digest(first) == digest(second)
    assert len(digest(first)) == 64


@pytest.mark.parametrize(
    "other", [{"weights": b"weightz"}, {"weights": b""}, {"config": CONFIG | {"r": 16}}, {"config": CONFIG | {"x": 1}}]
)
def test_any_change_of_config_or_weights_changes_the_digest(tmp_path: Path, other: dict[str, Any]) -> None:
    assert digest(written(tmp_path / "a")) != digest(written(tmp_path / "b", **other))


def test_a_byte_moved_from_one_file_to_the_next_changes_the_digest(tmp_path: Path) -> None:
    text = json.dumps(CONFIG)
    assert digest(written(tmp_path / "a", text, b" x")) != digest(written(tmp_path / "b", text + " ", b"x"))


def test_the_shape_comes_from_the_config(tmp_path: Path) -> None:
    assert inspect(written(tmp_path)) == Shape(rank=8, base="base")


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "deep/er/x.PTH", "state.pkl"])
def test_pickle_weights_are_refused_wherever_they_lie(tmp_path: Path, name: str) -> None:
    path = written(tmp_path) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="pickle"):
        digest(tmp_path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (written(tmp_path) / name).unlink()
    with pytest.raises(ValueError, match=name):
        digest(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        digest(tmp_path / "none")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "extra"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path / "adapter")
    (tmp_path / "secret").write_bytes(b"")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="link out of"):
        digest(folder)


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    """Hub caches store files as links beside each other."""
    plain, linked = written(tmp_path / "a"), written(tmp_path / "b")
    (linked / "adapter_model.safetensors").rename(linked / "blob")
    (linked / "adapter_model.safetensors").symlink_to("blob")
    assert digest(plain) == digest(linked)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        (CONFIG | {"peft_type": "IA3"}, "peft_type"),
        ({"r": 8}, "peft_type"),
        (CONFIG | {"r": 0}, "r is 0"),
        (CONFIG | {"r": "8"}, "r is '8'"),
        (CONFIG | {"r": True}, "r is True"),
        (" " * (1 << 20) + "{}", "larger than"),
    ],
)
def test_a_config_that_is_no_lora_is_refused_with_the_reason(tmp_path: Path, config: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        digest(written(tmp_path, config))
