"""Whether our packages are ours: their names are generic, and another distribution may bring one of the same name."""

import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("cluster", "deployments", "policies", "adapters")


class Intruder(Exception):
    """A package of ours would be imported from somewhere else."""


def check_origin(packages: Iterable[str] = PACKAGES) -> None:
    """Raises Intruder, naming it, unless each package is the one of the installed themis distribution."""
    try:
        themis = distribution("themis")
    except PackageNotFoundError:
        raise Intruder(f"the themis distribution is not installed for {sys.executable}") from None
    for package in packages:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise Intruder(f"package '{package}' is not importable; install themis again")
        origin = Path(spec.origin).resolve()
        if origin not in _homes(themis, package):
            raise Intruder(f"package '{package}' comes from {origin}{_owner(package)}, not from themis; remove it")


def _homes(themis: Distribution, package: str) -> set[Path]:
    """Where the distribution has that package: among its files, or below a path entry when installed editable."""
    homes: set[Path] = set()
    for file in themis.files or ():
        found = Path(str(themis.locate_file(file)))
        if file.parts == (package, "__init__.py"):
            homes.add(found.resolve())
        elif file.suffix == ".pth":
            homes |= {(Path(line) / package / "__init__.py").resolve() for line in found.read_text().splitlines()}
    return homes


def _owner(package: str) -> str:
    owners = [name for name in packages_distributions().get(package, ()) if name != "themis"]
    return f" (distribution {', '.join(owners)})" if owners else ""
