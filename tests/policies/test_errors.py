"""policies.errors: one envelope, and an error that crosses processes arrives as what it was."""

import pickle

import pytest

from policies import errors
from policies.errors import QueueFull, ThemisError


def _tree(kind: type[ThemisError]) -> list[type[ThemisError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in _tree(child))]


@pytest.mark.parametrize("kind", _tree(ThemisError))
def test_every_error_survives_pickling_with_all_it_says(kind: type[ThemisError]) -> None:
    error = kind("words", param="model", retry_after_s=2.0)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.message, copy.param, copy.retry_after_s) == ("words", "model", 2.0)


def test_the_envelope_is_openais() -> None:
    assert QueueFull("full").envelope() == {
        "error": {"message": "full", "type": "overloaded_error", "param": None, "code": "queue_full"}
    }


def test_the_tree_at_the_top_of_the_file_names_every_leaf() -> None:
    assert errors.__doc__
    for kind in _tree(ThemisError):
        assert kind.__name__ in errors.__doc__
