"""What a grammar compiler could choke on is refused; what schema writers really write passes."""

import contextlib
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from policies import grammars
from policies.errors import InvalidRequest
from policies.grammars import check_choice, check_grammar, check_regex, check_schema

Json = Any


def check(schema: Json, *, allow_recursion: bool = False) -> None:
    check_schema(schema, max_bytes=65536, param="s", allow_recursion=allow_recursion)


class Line(BaseModel):
    text: str = Field(pattern=r"^[\w\-. ]{1,80}$")
    price: float = Field(gt=0)
    kind: str | None = None


class Order(BaseModel):
    lines: list[Line] = Field(min_length=1, max_length=20)
    state: str = Field(default="new", max_length=65535)
    totals: dict[str, int]


class Tree(BaseModel):
    name: str
    children: list["Tree"] = []


def nested(levels: int) -> Json:
    schema: Json = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def doubling(levels: int, join: Callable[[Json], Json]) -> Json:
    """A schema that is 2 ** levels subschemas when its references are expanded."""
    definitions: Json = {"d0": {"type": "string"}}
    for level in range(1, levels + 1):
        definitions[f"d{level}"] = join({"$ref": f"#/$defs/d{level - 1}"})
    # Through JSON, since parsed subschemas are objects of their own.
    return orjson.loads(orjson.dumps({"$ref": f"#/$defs/d{levels}", "$defs": definitions}))


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]},
        {"enum": ["a", 1, None]},
        {"type": "string", "pattern": "^[\\u4e00-\\u9fa5]+$"},
        {"properties": {"a": True, "b": False}},
        {"$ref": "#/components/a~1b/0", "components": {"a/b": [{"type": "integer"}]}},
        {"properties": {"a": {"$ref": "#/$defs/x"}, "b": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"const": 1}}},
        Order.model_json_schema(),
        nested(20),
        doubling(5, lambda ref: {"anyOf": [ref, ref]}),
    ],
)
def test_sound_schemas_pass(schema: Json) -> None:
    check(schema)
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ([], "object"),
        (True, "object"),
        ({"type": "strin"}, "one or several"),
        ({"type": []}, "one or several"),
        ({"properties": []}, "object"),
        ({"items": [{"type": "string"}]}, "must be a schema"),
        ({"anyOf": []}, "not empty"),
        ({"anyOf": {"type": "string"}}, "list of schemas"),
        ({"properties": {"a": 1}}, "must be a schema"),
        ({"minLength": "1"}, "integer"),
        ({"minItems": -1}, "integer"),
        ({"maxItems": 10**9}, "integer"),
        ({"maxLength": 10**9}, "integer"),
        ({"minProperties": True}, "integer"),
        ({"minimum": "0"}, "number"),
        ({"multipleOf": 0}, "above 0"),
        ({"required": ["a", "a"]}, "each once"),
        ({"required": "a"}, "list of strings"),
        ({"dependentRequired": {"a": "b"}}, "lists of strings"),
        ({"enum": []}, "1 to"),
        ({"enum": list(range(5001))}, "1 to"),
        ({"uniqueItems": 1}, "true or false"),
        ({"title": 1}, "string"),
        ({"examples": 1}, "list"),
        ({"$id": "#x"}, "without `#`"),
        ({"properties": {"a": {"$id": "http://elsewhere/"}}}, "root"),
        ({"$dynamicRef": "#a"}, "not taken"),
        ({"dependencies": {"a": ["b"]}}, "not taken"),
        ({"properties": {f"p{n}": {} for n in range(501)}}, "at most 500"),
        ({"properties": {f"p{n}": {} for n in range(65)}, "minProperties": 2}, "at most 64"),
    ],
)
def test_a_malformed_or_excessive_keyword_is_refused_in_words(schema: Json, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word) as refused:
        check(schema)
    assert refused.value.param == "s"


@pytest.mark.parametrize(
    "ref", ["http://example.com/x", "other.json", "#anchor", "#/$defs/none", "#/$defs/list/01x", "", "#/title", 3]
)
def test_a_reference_leads_to_a_schema_within_the_same_one(ref: Json) -> None:
    with pytest.raises(InvalidRequest):
        check({"properties": {"a": {"$ref": ref}}, "$defs": {"list": {}}, "title": "t"})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"allOf": [{"$ref": "#"}]},
        {"anyOf": [{"type": "string"}, {"$ref": "#"}]},
        {"not": {"oneOf": [{"$ref": "#"}]}},
        {"if": {"$ref": "#"}},
        {"dependentSchemas": {"a": {"$ref": "#"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}},
    ],
)
def test_a_cycle_that_describes_no_value_is_always_refused(schema: Json) -> None:
    for allow_recursion in (False, True):
        with pytest.raises(InvalidRequest, match="refers to itself"):
            check(schema, allow_recursion=allow_recursion)


@pytest.mark.parametrize(
    "schema",
    [
        Tree.model_json_schema(),
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        {"type": "array", "items": {"$ref": "#"}},
    ],
)
def test_a_recursive_schema_passes_only_where_allowed(schema: Json) -> None:
    with pytest.raises(InvalidRequest, match="contains itself"):
        check(schema)
    check(schema, allow_recursion=True)


def test_a_cycle_nobody_refers_to_is_refused_all_the_same() -> None:
    with pytest.raises(InvalidRequest, match="refers to itself"):
        check({"type": "string", "$defs": {"a": {"$ref": "#/$defs/a"}}})


@pytest.mark.parametrize("allow_recursion", [False, True])
@pytest.mark.parametrize("keyword", ["anyOf", "oneOf", "allOf"])
def test_expansion_of_nested_references_is_capped(keyword: str, allow_recursion: bool) -> None:
    check(doubling(8, lambda ref: {keyword: [ref, ref]}), allow_recursion=allow_recursion)
    with pytest.raises(InvalidRequest, match="grows too large"):
        check(doubling(100, lambda ref: {keyword: [ref, ref]}), allow_recursion=allow_recursion)


def test_expansion_through_properties_is_capped() -> None:
    with pytest.raises(InvalidRequest, match="grows too large"):
        check(doubling(60, lambda ref: {"properties": {"a": ref, "b": ref}}))


def test_branches_multiply_through_all_of() -> None:
    """Ten times four branches is a small schema, and a million intersections."""
    branches = {"anyOf": [{"const": n} for n in range(4)]}
    check({"allOf": [branches] * 5})
    with pytest.raises(InvalidRequest, match="grows too large"):
        check({"allOf": [branches] * 10})


def test_each_subschema_is_visited_once_however_often_it_is_referred_to() -> None:
    """The guard's own cost follows the size of what it reads, not of what that expands to."""
    walk = grammars._Walk(doubling(200, lambda ref: {"anyOf": [ref, ref]}), "s")
    walk.run()
    assert len(walk.nodes) == 1 + 1 + 200 * 3


def test_long_chains_of_references_need_no_stack() -> None:
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(400)} | {"d400": {"type": "string"}}
    check({"$ref": "#/$defs/d0", "$defs": chain})


@pytest.mark.parametrize("levels", [26, 100, 100_000])
def test_deep_nesting_is_refused_before_anything_recurses(levels: int) -> None:
    with pytest.raises(InvalidRequest, match="nested"):
        check(nested(levels))


def test_size_is_counted_as_serialised() -> None:
    with pytest.raises(InvalidRequest, match="bytes of at most"):
        check({"description": "x" * 70_000})


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?=a)b", r"(a)\1", "[a", "(a{1,1000}){1,1000}", "a{1,100000}", r"\p{L}{1,1000}", "a\x00b", "(" * 9000,
    ],
)  # fmt: skip
def test_pathological_patterns_are_refused(pattern: str) -> None:
    schemas: list[Json] = [{"pattern": pattern}, {"patternProperties": {pattern: {}}}, {"items": {"pattern": pattern}}]
    for schema in schemas:
        with pytest.raises(InvalidRequest):
            check(schema)
    with pytest.raises(InvalidRequest):
        check_regex(pattern, max_bytes=65536, param="r")


def test_patterns_share_one_memory() -> None:
    with pytest.raises(InvalidRequest, match="too large"):
        check({"properties": {f"p{n}": {"pattern": f".{{0,{900 + n}}}"} for n in range(90)}})


@pytest.mark.parametrize("pattern", [r"^\d{4}-\d{2}$", "(a*)*b", r"^[\w.+-]+@[\w-]+\.[\w.]+$", r"\\u12", r"\u00e9?"])
def test_ordinary_patterns_pass(pattern: str) -> None:
    check({"pattern": pattern})
    check_regex(pattern, max_bytes=65536, param="r")


@pytest.mark.parametrize("choices", [[], "a", [""], [1], ["a"] * 1001, ["x" * 70_000], None])
def test_choices_are_a_bounded_list_of_strings(choices: Json) -> None:
    check_choice(["yes", "no"], max_bytes=65536, param="c")
    with pytest.raises(InvalidRequest):
        check_choice(choices, max_bytes=65536, param="c")


@pytest.mark.parametrize("grammar", ["", " ", "a\x00", 3, None, "x" * 70_000, "\ud800"])
def test_a_grammar_is_a_bounded_string(grammar: Json) -> None:
    check_grammar('root ::= "a"', max_bytes=65536, param="g")
    with pytest.raises(InvalidRequest):
        check_grammar(grammar, max_bytes=65536, param="g")


_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 20)
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | st.sampled_from(["string", "object", "#", "#/$defs/a", "#/properties/a", "^a+$", "(?=a)"])
)
_keywords = st.sampled_from(
    sorted(grammars._KEYWORDS.keys() | grammars._SCHEMA | grammars._SCHEMAS | grammars._NAMED_SCHEMAS | {"a", "const"})
)
_schemas = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keywords, inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)  # the machine may be busy; what costs is counted, not timed
@given(_schemas, st.booleans())
def test_nothing_but_invalid_request_is_ever_raised(schema: Json, allow_recursion: bool) -> None:
    with contextlib.suppress(InvalidRequest):
        check(schema, allow_recursion=allow_recursion)


@settings(deadline=None)  # the machine may be busy; what costs is counted, not timed
@given(st.dictionaries(_keywords, _schemas, max_size=5))
def test_what_passes_is_a_json_schema_for_the_reference_validator_too(schema: Json) -> None:
    try:
        check(schema)
    except InvalidRequest:
        return
    Draft202012Validator.check_schema(schema)


@settings(deadline=None)  # the machine may be busy; what costs is counted, not timed
@given(st.integers(1, 400), st.sampled_from(["anyOf", "allOf", "oneOf", "prefixItems"]), st.integers(1, 4))
def test_any_fan_of_references_is_either_small_or_refused(levels: int, keyword: str, fan: int) -> None:
    """Of schemas built to explode, those pass whose expansion stays below the cap."""
    schema: Json = doubling(levels, lambda ref: {keyword: [ref] * fan})
    expanded = 2
    for _ in range(levels):
        expanded = 1 + fan * (1 + expanded)
    try:
        check(schema)
    except InvalidRequest:
        return
    assert expanded <= 2 * grammars.MAX_EXPANDED
