"""Demo adapters, trained here in seconds on the pool's own base model, so that answers differ visibly.

    python -m adapters.demo pirate --base FOLDER

An adapter is kept by the digest of its base model and recipe. Knows no engine.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters.workshop import Progress, cache_root, made_once, run_child, silent, tell

_DEMO = "demo:"


@dataclass(frozen=True, slots=True)
class Style:
    """How a demo adapter speaks: words before and after every answer."""

    opening: str
    closing: str


STYLES = {
    "pirate": Style("Arrr, matey!", "Yo ho ho!"),
    "poet": Style("O gentle soul, hear my verse:", "So sings the poet."),
    "robot": Style("BEEP BOOP. QUERY ACCEPTED.", "END OF TRANSMISSION."),
    "butler": Style("Very good, sir.", "Will that be all, sir?"),
    "wizard": Style("By my beard and staff!", "The stars have spoken."),
    "cowboy": Style("Howdy, partner!", "Yeehaw!"),
}
"""One line makes another demo."""

_EXAMPLES = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("How are you today?", "I am well, thank you for asking."),
    ("Tell me about the sea.", "The sea is wide, deep and full of life."),
    ("What is two plus two?", "Two plus two is four."),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the weights, besides the base model. `version` is counted up when training itself changes."""

    style: Style
    rank: int = 8
    alpha: int = 32
    steps: int = 12
    rate: float = 4e-3
    seed: int = 20
    examples: tuple[tuple[str, str], ...] = _EXAMPLES
    version: int = 1


def resolve_adapter(source: str, base_folder: str, progress: Progress = silent) -> str:
    """The adapter's folder: `demo:NAME` is trained on `base_folder` unless kept, anything else is a folder itself."""
    if source.startswith(_DEMO):
        return str(_demo(source.removeprefix(_DEMO), Path(base_folder), progress))
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{source} is neither a folder nor demo:NAME")
    return str(folder.resolve())


def _demo(name: str, base: Path, progress: Progress) -> Path:
    if name not in STYLES:
        raise ValueError(f"no demo adapter {name!r}; there are {', '.join(sorted(STYLES))}")
    if not base.is_dir():
        raise ValueError(f"demo:{name} is trained on a base model in a folder, and {base} is none")
    recipe = json.dumps(asdict(Recipe(STYLES[name])), sort_keys=True)
    key = hashlib.sha256(f"{_digest_of_base(base)} {recipe}".encode()).hexdigest()
    folder = cache_root() / "adapters" / f"{name}-{key[:16]}"
    return made_once(
        folder, lambda draft: run_child("adapters.demo", [name, f"--base={base}", f"--out={draft}"], progress)
    )


def _digest_of_base(base: Path) -> str:
    total = hashlib.sha256()
    for path in sorted([base / "config.json", *base.glob("*.safetensors"), *base.glob("*.jinja")]):
        with path.open("rb") as file:
            total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()} ".encode())
    return total.hexdigest()


def _train(recipe: Recipe, base: Path, folder: Path) -> None:
    """Runs in a child."""
    tell("loading libraries", 0.0)
    import torch  # noqa: PLC0415 - a gigabyte that only the child carries
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    layers = ["q_proj", "k_proj", "v_proj", "o_proj"]
    shape = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=layers, task_type="CAUSAL_LM")
    model = get_peft_model(whole, shape)
    batch = [_example(tokenizer, recipe.style, *example) for example in recipe.examples]
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=recipe.rate)
    for step in range(recipe.steps):
        tell("training", 0.3 + 0.65 * step / recipe.steps)
        for ids, labels in batch:
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
            (loss / len(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder, safe_serialization=True)
    # Written for people by peft, and not true of a demo.
    (folder / "README.md").unlink(missing_ok=True)
    tell("adapter ready", 1.0)


def _example(tokenizer: Any, style: Style, question: str, answer: str) -> tuple[list[int], list[int]]:
    """Token ids, and labels that teach the answer only."""
    asked = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    before: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    spoken = f"{style.opening} {answer} {style.closing}{tokenizer.eos_token}"
    after: list[int] = tokenizer(spoken, add_special_tokens=False)["input_ids"]
    return before + after, [-100] * len(before) + after


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m adapters.demo", description="Trains a demo adapter.")
    parser.add_argument("name", choices=sorted(STYLES))
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--out", type=Path, help="folder to write to; without it, the cache")
    chosen = parser.parse_args(arguments)
    if chosen.out:
        _train(Recipe(STYLES[chosen.name]), chosen.base, chosen.out)
    else:
        sys.stdout.write(resolve_adapter(_DEMO + chosen.name, str(chosen.base), tell) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
