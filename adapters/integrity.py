"""Whether an adapter's folder may be handed to an engine, and the digest that names its version.

Only safetensors: pickle weights run code when they are read. Knows no engine and imports nothing heavy.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
_BLOCK = 1 << 20
_MOST_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """What an adapter's own config says of it."""

    rank: int
    base: str | None


def digest(folder: str | Path) -> str:
    """The hex SHA-256 over the names, sizes and bytes of the adapter's files. Raises ValueError with the reason."""
    inspect(folder)
    total = hashlib.sha256()
    for name in (_CONFIG, _WEIGHTS):
        path = Path(folder) / name
        total.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                total.update(block)
    return total.hexdigest()


def inspect(folder: str | Path) -> Shape:
    """The adapter's shape; raises ValueError with the reason when an engine must not get it."""
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"{place} is not a folder")
    _check_files(place)
    return _shape(place / _CONFIG)


def _check_files(folder: Path) -> None:
    home = folder.resolve()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise ValueError(f"{name} is a link out of {folder}")
        if path.suffix.lower() in _PICKLES:
            raise ValueError(f"{name} holds pickle weights, which run code when read: convert them to safetensors")
    for needed in (_CONFIG, _WEIGHTS):
        if not (folder / needed).is_file():
            raise ValueError(f"{needed} is missing in {folder}")


def _shape(config: Path) -> Shape:
    if config.stat().st_size > _MOST_CONFIG_BYTES:
        raise ValueError(f"{config.name} is larger than {_MOST_CONFIG_BYTES} bytes")
    try:
        fields: Any = json.loads(config.read_bytes())
    except ValueError as fault:
        raise ValueError(f"{config.name} is not JSON: {fault}") from fault
    if not isinstance(fields, dict):
        raise ValueError(f"{config.name} is not a JSON object")  # noqa: TRY004 - it is the file that is wrong
    if fields.get("peft_type") != "LORA":
        raise ValueError(f"{config.name}: peft_type is {fields.get('peft_type')!r}, and only 'LORA' is served")
    rank = fields.get("r")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"{config.name}: r is {rank!r}, not a positive integer")
    base = fields.get("base_model_name_or_path")
    return Shape(rank, base if isinstance(base, str) else None)
