import sys
from pathlib import Path

import pytest

from cluster.origin import Intruder, check_origin


def test_our_packages_are_ours() -> None:
    check_origin()


def test_an_intruder_is_named_with_its_place() -> None:
    """`json` stands for a package of that name which another distribution brought."""
    with pytest.raises(Intruder, match=r"package 'json' comes from .*json/__init__.py"):
        check_origin(["json"])


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(Intruder, match="'no_such_package' is not importable"):
        check_origin(["no_such_package"])
