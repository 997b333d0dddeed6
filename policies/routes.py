"""Where a model name leads. A name is a pool or one of its adapters; an unknown one is an error, never another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from policies.errors import UnknownModel


@dataclass(frozen=True, slots=True)
class Target:
    """public: the name in the request and in the answer; adapter: public name of one, or None for the base model."""

    public: str
    pool: str
    adapter: str | None = None


class Routes:
    """All names that this gateway serves. Immutable: a change is another object, and a call sees one of them."""

    def __init__(self, targets: Iterable[Target]) -> None:
        self._targets = {target.public: target for target in targets}

    def resolve(self, model: str) -> Target:
        try:
            return self._targets[model]
        except KeyError:
            raise UnknownModel(f"The model `{model}` does not exist.", param="model") from None

    def targets(self) -> Sequence[Target]:
        return list(self._targets.values())
