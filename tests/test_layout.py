"""The shape of the tree: who may import what, and how long a file or a function may grow."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = sorted(
    path for package in ("cluster", "deployments", "policies", "adapters") for path in (ROOT / package).rglob("*.py")
)

RAY_SHELLS = {"deployments/gateway.py", "deployments/replica.py"}
"""The thin Serve shells, which alone outside cluster/ know Ray."""


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[str]:
    """The top-level packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def importers(package: str) -> set[str]:
    return {place(path) for path in PRODUCT if package in imported(path)}


def test_the_tree_is_found() -> None:
    assert importers("pydantic")


def test_ray_is_known_in_the_cluster_and_in_the_thin_shells_only() -> None:
    assert {path for path in importers("ray") if not path.startswith("cluster/")} <= RAY_SHELLS


def test_vllm_is_known_in_one_file() -> None:
    assert importers("vllm") <= {"deployments/engines/vllm.py"}


def test_yaml_is_known_in_one_file() -> None:
    assert importers("yaml") == {"cluster/config.py"}


@pytest.mark.parametrize("path", PRODUCT, ids=place)
def test_no_file_and_no_function_grows_beyond_reading(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {each.name: size for each in functions if (size := (each.end_lineno or 0) - each.lineno + 1) > 60}
    assert not long
