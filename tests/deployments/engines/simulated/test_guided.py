"""Documents of a schema."""

from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.engines.simulated.guided import document
from policies.errors import InvalidRequest

_TREE: dict[str, Any] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["name"],
        }
    },
    "$ref": "#/$defs/node",
}
_SCHEMAS: list[dict[str, Any]] = [
    {},
    _TREE,
    {"type": "array", "items": {"type": "number", "minimum": 3, "maximum": 5}, "minItems": 2, "maxItems": 3},
    {"type": "object", "properties": {"a": {"const": 5}, "b": {"type": ["boolean", "null"]}}, "required": ["a", "b"]},
    {"allOf": [{"properties": {"x": {"type": "integer", "multipleOf": 7, "minimum": 10}}, "required": ["x"]}]},
    {"type": "string", "minLength": 20, "maxLength": 24},
]


@pytest.mark.parametrize("schema", _SCHEMAS)
@given(entropy=st.integers(0, 2**64 - 1))
def test_a_document_is_valid_and_the_same_for_the_same_seed(schema: dict[str, Any], entropy: int) -> None:
    text = document(schema, entropy)
    jsonschema.validate(orjson.loads(text), schema)
    assert document(schema, entropy) == text


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "#"},
        {"$ref": "#/$defs/none"},
        {"type": "string", "pattern": "^[0-9]+$"},
        {"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]},
    ],
)
def test_a_schema_beyond_it_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        document(schema, 0)
