"""The engine's own field for constrained answers, `structured_outputs`, where an operator lets it pass."""

from typing import Any

import orjson

from policies.errors import InvalidRequest
from policies.grammars import check_choice, check_grammar, check_regex, check_schema

_KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_CHECKS = {"regex": check_regex, "choice": check_choice, "grammar": check_grammar}


def check_structured_outputs(value: Any, *, max_bytes: int, param: str, allow_recursion: bool = False) -> None:
    """Raises InvalidRequest unless there is exactly one constraint, and one that an engine can compile."""
    given = [kind for kind in _KINDS if value.get(kind) is not None] if isinstance(value, dict) else []
    if len(given) != 1:
        raise InvalidRequest(f"`{param}` must be an object with exactly one of {', '.join(_KINDS)}.", param=param)
    kind = given[0]
    place, constraint = f"{param}.{kind}", value[kind]
    if kind == "json":
        schema = _loaded(constraint, max_bytes, place) if isinstance(constraint, str) else constraint
        check_schema(schema, max_bytes=max_bytes, param=place, allow_recursion=allow_recursion)
    elif kind == "structural_tag":
        # It nests grammars of every kind inside each other, and no guard here reads all of them.
        raise InvalidRequest(f"`{place}` is not taken.", param=place)
    elif kind == "json_object":
        if constraint is not True:
            raise InvalidRequest(f"`{place}` must be true where it is given.", param=place)
    else:
        _CHECKS[kind](constraint, max_bytes=max_bytes, param=place)
    whitespace = value.get("whitespace_pattern")
    if whitespace is not None:
        check_regex(whitespace, max_bytes=max_bytes, param=f"{param}.whitespace_pattern")


def _loaded(text: str, max_bytes: int, param: str) -> Any:
    check_grammar(text, max_bytes=max_bytes, param=param)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as fault:
        raise InvalidRequest(f"`{param}` is not valid JSON: {fault}.", param=param) from fault
