"""JSON documents for `response_format` and tools: made in one piece from a schema, the same for the same seed.

Covers what schemas of requests and tools commonly use and refuses the rest; every document is checked against its
schema before a token of it is sent. A document cut short is not continued by a later call: a continuation begins anew.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema
import orjson

from deployments.engines.simulated.tokens import THEMES
from policies.errors import InvalidRequest

_DEPTH = 12  # deeper references are taken as endless
_OPTIONAL_DEPTH = 3  # below it only required properties are given, so that recursive schemas end
_ANY: dict[str, Any] = {"type": "object", "properties": {"word": {"type": "string"}, "count": {"type": "integer"}}}

Schema = Mapping[str, Any]


def document(schema: Schema | None, entropy: int) -> str:
    """The text of a document; without a schema, of any object. Raises InvalidRequest for a schema beyond it."""
    schema = schema or _ANY
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        value = _Maker(schema, entropy).make(schema, 0)
        jsonschema.Draft202012Validator(schema).validate(value)
    except jsonschema.exceptions.SchemaError as fault:
        raise InvalidRequest(f"The JSON schema is not valid: {fault.message}", param="response_format") from None
    except jsonschema.exceptions.ValidationError as fault:
        message = f"The simulated engine cannot make a document for this JSON schema: {fault.message}"
        raise InvalidRequest(message, param="response_format") from None
    return orjson.dumps(value).decode()


class _Maker:
    def __init__(self, root: Schema, entropy: int) -> None:
        self._root = root
        self._random = random.Random(entropy)  # noqa: S311 - reproducible on purpose, no secret
        self._by_type: dict[str, Callable[[Schema, int], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._integer,
            "boolean": lambda _schema, _depth: self._random.random() < 0.5,  # noqa: PLR2004 - a coin
            "null": lambda _schema, _depth: None,
        }

    def make(self, schema: Any, depth: int) -> Any:
        if depth > _DEPTH:
            raise InvalidRequest("The JSON schema never ends.", param="response_format")
        if isinstance(schema, bool):  # `true` and `false` are schemas too
            return None
        schema = self._flatten(schema, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._random.choice(schema["enum"])
        kind = schema.get("type") or ("object" if "properties" in schema else "string")
        return self._by_type[kind if isinstance(kind, str) else kind[0]](schema, depth)

    def _flatten(self, schema: Schema, depth: int) -> Schema:
        """References followed, the first alternative taken, `allOf` merged."""
        flat = {key: value for key, value in schema.items() if key not in {"$ref", "anyOf", "oneOf", "allOf"}}
        parts = list(schema.get("allOf", ()))
        parts += [options[0] for key in ("anyOf", "oneOf") if (options := schema.get(key))]
        if "$ref" in schema:
            parts.append(self._resolve(schema["$ref"]))
        for part in parts:
            if depth > _DEPTH:
                raise InvalidRequest("The JSON schema refers to itself without end.", param="response_format")
            more = self._flatten(part, depth + 1) if isinstance(part, Mapping) else {}
            properties = {**flat.get("properties", {}), **more.get("properties", {})}
            required = [*flat.get("required", ()), *more.get("required", ())]
            flat = {**flat, **more} | ({"properties": properties, "required": required} if properties else {})
        return flat

    def _resolve(self, reference: str) -> Any:
        found: Any = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                raise InvalidRequest(f"The JSON schema refers to {reference}, which it lacks.", param="response_format")
            found = found[name]
        return found

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = set(schema.get("required", ()))
        wanted = {
            name: part
            for name, part in schema.get("properties", {}).items()
            if name in required or depth < _OPTIONAL_DEPTH
        }
        return {name: self.make(part, depth + 1) for name, part in wanted.items()}

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        least = schema.get("minItems", 0 if depth >= _OPTIONAL_DEPTH else 1)
        count = min(max(least, self._random.randint(least, least + 1)), schema.get("maxItems", least + 1))
        return [self.make(schema.get("items", {}), depth + 1) for _ in range(count)]

    def _string(self, schema: Schema, _depth: int) -> str:
        text = self._random.choice(THEMES[0])
        while len(text) < schema.get("minLength", 0):
            text += " " + self._random.choice(THEMES[0])
        return text[: schema.get("maxLength")]

    def _integer(self, schema: Schema, _depth: int) -> int:
        step = schema.get("multipleOf", 1)
        low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        high = schema.get("maximum", schema.get("exclusiveMaximum", max(low, 0) + 100 * step + 1) - 1)
        first, last = -(-low // step), high // step
        return int(self._random.randint(int(first), int(max(first, last))) * step)
