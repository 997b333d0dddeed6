"""What may be asked of an engine's grammar compiler: JSON schemas, regular expressions, choices and grammars.

Engines compile them without a timeout and some die of them, so whatever could hang, explode or crash a compiler is
refused before it gets there. The cost of the guard itself is bounded by the size of what it reads.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from math import prod
from typing import Any, NoReturn
from urllib.parse import unquote

import orjson

from policies.errors import InvalidRequest
from policies.patterns import check_patterns

MAX_DEPTH = 50  # levels of JSON; vLLM refuses beyond 64, and wraps the schemas of tools into a few of its own
MAX_EXPANDED = 20_000  # subschemas when every `$ref` is replaced by its target
MAX_ALTERNATIVES = 4_096  # branches of anyOf and oneOf, multiplied through allOf, as intersecting compilers do
MAX_PROPERTIES = 500  # of one object; xgrammar takes quadratic time: 0.1 s for 600, 1.2 s for 2,400
MAX_COUNTED_PROPERTIES = 64  # beside minProperties or maxProperties, where it takes cubic time: 0.3 s for 80
MAX_ENUM = 5_000
MAX_COUNT = 10_000  # items or properties that a schema may ask for
MAX_LENGTH = 100_000  # characters that it may ask for
MAX_CHOICES = 1_000
_MAX_INDEX_DIGITS = 6
_REMEMBERED_BYTES = 4096  # of one schema; a thousand such are kept
_SHOWN = 80  # characters of a schema that an answer repeats

_SCHEMA = frozenset({
    "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
})  # fmt: skip
_SCHEMAS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED_SCHEMAS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})

# Where a schema applies to the very value its parent applies to. A cycle of these alone describes no value at all.
_IN_PLACE = frozenset({"$ref", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
_EITHER = frozenset({"anyOf", "oneOf"})
_DEFINITIONS = frozenset({"$defs", "definitions"})


def check_schema(schema: Any, *, max_bytes: int, param: str, allow_recursion: bool = False) -> None:
    """Raises InvalidRequest when `schema` is no JSON Schema (2020-12), or one that no engine should compile.

    `allow_recursion` admits schemas that contain themselves inside a property or an item.
    """
    if not isinstance(schema, dict):
        raise InvalidRequest(f"`{param}` must be an object.", param=param)
    data = _dump(schema, max_bytes, param)
    accept = _accept if len(data) <= _REMEMBERED_BYTES else _accept.__wrapped__
    accept(data, param, allow_recursion=allow_recursion)


@lru_cache(maxsize=1024)
def _accept(data: bytes, param: str, *, allow_recursion: bool) -> None:
    """Remembers what it accepted: callers send the schemas of their tools with every turn of a conversation."""
    schema = orjson.loads(data)
    _check_depth(schema, param)
    walk = _Walk(schema, param)
    walk.run()
    _check_references(walk, allow_recursion=allow_recursion)
    check_patterns(walk.patterns, param=param)


def check_regex(pattern: Any, *, max_bytes: int, param: str) -> None:
    check_grammar(pattern, max_bytes=max_bytes, param=param)
    check_patterns([pattern], param=param)


def check_choice(choices: Any, *, max_bytes: int, param: str) -> None:
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
        raise InvalidRequest(f"`{param}` must be a list of strings that are not empty.", param=param)
    if not 1 <= len(choices) <= MAX_CHOICES:
        raise InvalidRequest(f"`{param}` must have 1 to {MAX_CHOICES} entries, not {len(choices)}.", param=param)
    _dump(choices, max_bytes, param)


def check_grammar(grammar: Any, *, max_bytes: int, param: str) -> None:
    if not isinstance(grammar, str) or not grammar.strip():
        raise InvalidRequest(f"`{param}` must be a string that is not empty.", param=param)
    if "\x00" in grammar:
        raise InvalidRequest(f"`{param}` must not contain NUL.", param=param)
    _dump(grammar, max_bytes, param)


def _dump(value: Any, max_bytes: int, param: str) -> bytes:
    """As JSON; refuses what is too large. Comes first, since it does not descend without a limit."""
    try:
        data = orjson.dumps(value)
    except orjson.JSONEncodeError as fault:
        raise InvalidRequest(f"`{param}` is nested too deeply, or not JSON.", param=param) from fault
    if len(data) > max_bytes:
        raise InvalidRequest(f"`{param}` takes {len(data)} bytes of at most {max_bytes}.", param=param)
    return data


def _check_depth(value: Any, param: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = list(_children(level))
        if not level:
            return
    raise InvalidRequest(f"`{param}` is nested deeper than {MAX_DEPTH} levels.", param=param)


def _children(level: Iterable[Any]) -> Iterator[Any]:
    for value in level:
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, list):
            yield from value


@dataclass(slots=True)
class _Node:
    """A subschema's edges. `groups` are in place: each group applies, by any one of its members."""

    place: str
    groups: list[list[int]] = field(default_factory=list)
    inner: list[int] = field(default_factory=list)

    def in_place(self) -> list[int]:
        return [child for group in self.groups for child in group]

    def all(self) -> list[int]:
        return self.in_place() + self.inner


class _Walk:
    """Visits every subschema once, checks its keywords, and notes what refers to what.

    Mutable state: `nodes` by identity of the subschema (the schema outlives the walk), `patterns`, `_todo`;
    changed by the visit alone.
    """

    def __init__(self, root: dict[str, Any], param: str) -> None:
        self.nodes: dict[int, _Node] = {}
        self.patterns: list[str] = []
        self._root = root
        self._param = param
        self._todo: list[tuple[dict[str, Any], str]] = [(root, "#")]

    def run(self) -> None:
        while self._todo:
            schema, place = self._todo.pop()
            if id(schema) not in self.nodes:
                self._visit(schema, place)

    def refuse(self, place: str, why: str) -> NoReturn:
        raise InvalidRequest(f"`{self._param}` at `{place[:_SHOWN]}`: {why}", param=self._param)

    def _visit(self, schema: dict[str, Any], place: str) -> None:
        node = self.nodes[id(schema)] = _Node(place)
        for keyword, value in schema.items():
            self._check_keyword(keyword, value, place)
            children = self._subschemas(keyword, value, place)
            if not children or keyword in _DEFINITIONS:
                continue
            if keyword in _EITHER:
                node.groups.append(children)
            elif keyword in _IN_PLACE:
                node.groups.extend([child] for child in children)
            else:
                node.inner.extend(children)
        if len(schema.get("properties", ())) > MAX_COUNTED_PROPERTIES and not schema.keys().isdisjoint(
            ("minProperties", "maxProperties")
        ):
            self.refuse(place, f"minProperties and maxProperties go with at most {MAX_COUNTED_PROPERTIES} properties.")

    def _subschemas(self, keyword: str, value: Any, place: str) -> list[int]:
        """The subschemas under a keyword, put on the list of places to visit. Raises where there should be one."""
        where = f"{place}/{keyword}"[:_SHOWN]  # cut, since long names would be repeated by each of their children
        if keyword == "$ref":
            found = [(self._resolve(value, where), value)]
        elif keyword in _SCHEMA:
            found = [(value, where)]
        elif keyword in _SCHEMAS:
            if not isinstance(value, list) or not value:
                self.refuse(where, "must be a list of schemas that is not empty.")
            found = [(schema, f"{where}/{index}") for index, schema in enumerate(value)]
        elif keyword in _NAMED_SCHEMAS:
            if not isinstance(value, dict) or len(value) > MAX_PROPERTIES:
                self.refuse(where, f"must be an object of at most {MAX_PROPERTIES} schemas.")
            found = [(schema, f"{where}/{name}") for name, schema in value.items()]
        else:
            return []
        for schema, at in found:
            if not isinstance(schema, dict | bool):
                self.refuse(at, "must be a schema: an object, true or false.")
        objects = [(schema, at) for schema, at in found if isinstance(schema, dict)]
        self._todo += objects
        return [id(schema) for schema, _ in objects]

    def _resolve(self, ref: str, where: str) -> Any:
        if ref != "#" and not ref.startswith("#/"):
            self.refuse(where, "only references into the same schema (`#/...`) are resolved.")
        target: Any = self._root
        for part in ref.split("/")[1:]:
            step = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and step in target:
                target = target[step]
            elif isinstance(target, list) and _index(step) < len(target):
                target = target[_index(step)]
            else:
                self.refuse(where, f"`{ref[:_SHOWN]}` refers to nothing.")
        return target

    def _check_keyword(self, keyword: str, value: Any, place: str) -> None:
        if keyword == "$id" and place != "#":
            self.refuse(f"{place}/$id", "an `$id` is taken at the root only.")
        holds, words = _KEYWORDS.get(keyword, _ANYTHING)
        if not holds(value):
            self.refuse(f"{place}/{keyword}", words)
        if keyword == "pattern":
            self.patterns.append(value)
        elif keyword == "patternProperties" and isinstance(value, dict):
            self.patterns.extend(value)


def _check_references(walk: _Walk, *, allow_recursion: bool) -> None:
    """No schema contains itself, and none grows beyond measure when references are replaced by their targets."""
    in_place = {key: node.in_place() for key, node in walk.nodes.items()}
    order = _order(walk, in_place, "the schema refers to itself and so describes no value.")
    edges = {key: node.all() for key, node in walk.nodes.items()}
    if allow_recursion:
        edges = in_place  # behind a property or an item a recursive schema is a rule that is called by its name
    else:
        order = _order(walk, edges, "the schema contains itself; recursive schemas are not taken here.")
    expanded: dict[int, int] = {}
    alternatives: dict[int, int] = {}
    for key in order:
        node = walk.nodes[key]
        # Capped on the way up, so that no number grows with the exponent of a hostile schema.
        expanded[key] = min(1 + sum(expanded[child] for child in edges[key]), MAX_EXPANDED + 1)
        branches = prod(sum(alternatives[child] for child in group) for group in node.groups)
        alternatives[key] = min(branches, MAX_ALTERNATIVES + 1)
        if expanded[key] > MAX_EXPANDED or alternatives[key] > MAX_ALTERNATIVES:
            walk.refuse(node.place, "the schema grows too large when its references and branches are expanded.")


def _order(walk: _Walk, edges: dict[int, list[int]], why: str) -> list[int]:
    """Children before parents; refuses the schema when there is a cycle."""
    try:
        return list(TopologicalSorter(edges).static_order())
    except CycleError as fault:
        walk.refuse(walk.nodes[fault.args[1][0]].place, why)


def _index(step: str) -> int:
    """The position that a JSON pointer's step names; beyond every list when it names none."""
    short_decimal = step.isascii() and step.isdigit() and len(step) <= _MAX_INDEX_DIGITS
    return int(step) if short_decimal else 10**_MAX_INDEX_DIGITS


def _is_type(value: Any) -> bool:
    return isinstance(value, str) and value in _TYPES


def _is_types(value: Any) -> bool:
    return _is_type(value) or (_are_distinct_strings(value) and bool(value) and all(map(_is_type, value)))


def _are_distinct_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value) and len(set(value)) == len(value)


def _are_lists_of_strings(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_are_distinct_strings, value.values()))


def _at_most(most: int) -> tuple[Callable[[Any], bool], str]:
    return lambda value: type(value) is int and 0 <= value <= most, f"must be an integer from 0 to {most}."


def _never(_: Any) -> bool:
    return False


# What the value of a keyword has to be, and how to say it. What is not listed is either a schema or anything at all.
_ANYTHING = (lambda _: True, "")
_STRING = (lambda value: isinstance(value, str), "must be a string.")
_NUMBER = (lambda value: type(value) in (int, float), "must be a number.")
_FLAG = (lambda value: type(value) is bool, "must be true or false.")
_NOT_TAKEN = (_never, "this keyword is not taken.")
_KEYWORDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("$schema", "$comment", "$ref", "title", "description", "format", "pattern"), _STRING),
    **dict.fromkeys(("contentEncoding", "contentMediaType"), _STRING),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), _FLAG),
    **dict.fromkeys(("$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef"), _NOT_TAKEN),
    **dict.fromkeys(("$vocabulary", "dependencies"), _NOT_TAKEN),
    **dict.fromkeys(("minItems", "maxItems", "minContains", "maxContains"), _at_most(MAX_COUNT)),
    **dict.fromkeys(("minProperties", "maxProperties"), _at_most(MAX_COUNT)),
    **dict.fromkeys(("minLength", "maxLength"), _at_most(MAX_LENGTH)),
    "$id": (lambda value: isinstance(value, str) and "#" not in value, "must be a string without `#`."),
    "multipleOf": (lambda value: type(value) in (int, float) and value > 0, "must be a number above 0."),
    "type": (_is_types, f"must be one or several of {', '.join(sorted(_TYPES))}."),
    "enum": (
        lambda value: isinstance(value, list) and 1 <= len(value) <= MAX_ENUM,
        f"must be a list of 1 to {MAX_ENUM} values.",
    ),
    "examples": (lambda value: isinstance(value, list), "must be a list."),
    "required": (_are_distinct_strings, "must be a list of strings, each once."),
    "dependentRequired": (_are_lists_of_strings, "must be an object of lists of strings, each once."),
}
