"""The whole config: one Ray Serve file whose application `themis` has our sections as `args`.

Reads and checks; reports every fault at once, each with its path. Knows nothing of starting anything.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from deployments.config import GatewayConfig, PoolConfig
from policies.identity import IdentityConfig, KeyConfig
from policies.section import Section

APPLICATION = "themis"

Path_ = tuple[str | int, ...]


class ConfigFaults(Exception):
    """A config file that cannot be used, with all that is wrong with it."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = list(dict.fromkeys(faults))
        super().__init__("\n".join(self.faults))


class ThemisConfig(Section):
    """The `args` of the application."""

    identity: IdentityConfig = IdentityConfig()
    gateway: GatewayConfig = GatewayConfig()
    pools: tuple[PoolConfig, ...] = Field(min_length=1)
    """One entry per model."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> "ThemisConfig":
        found = list(_repeats(self.model_dump()))
        if found:
            raise ValidationError.from_exception_data(
                "ThemisConfig",
                [
                    InitErrorDetails(
                        type=PydanticCustomError("repeated", "{problem}", {"problem": problem}), loc=path, input=None
                    )
                    for path, problem in found
                ],
            )
        return self


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """A checked file: the document as Ray Serve takes it, and our part of it."""

    document: Mapping[str, Any]
    themis: ThemisConfig
    host: str
    port: int
    route_prefix: str

    def with_key(self, key: KeyConfig) -> dict[str, Any]:
        """The document with one more API key."""
        applications = [
            {**app, "args": _args_with_key(app["args"], key)} if app["name"] == APPLICATION else app
            for app in self.document["applications"]
        ]
        return {**self.document, "applications": applications}


def load(path: Path) -> ServeConfig:
    """The config in a file. Raises ConfigFaults with everything that is wrong with it."""
    document = _read(path)
    # Importing ray.serve takes two seconds and fixes its flags, so only who loads a config pays for it, and when.
    from ray.serve.schema import ServeDeploySchema  # noqa: PLC0415 - see above

    faults = list(_unknown(ServeDeploySchema, document))
    schema = None
    try:
        schema = ServeDeploySchema.model_validate(document)
    except ValidationError as error:
        faults += _described(error, document, ())
    index, app = _application(document)
    if app is None:
        raise ConfigFaults([*faults, f"applications: none is named '{APPLICATION}'"])
    themis = None
    args, at = app.get("args") or {}, ("applications", index, "args")
    try:
        themis = ThemisConfig.model_validate(args)
    except ValidationError as error:
        # pydantic looks for repeated names only in what is otherwise right.
        faults += [*_described(error, args, at), *(_line((*at, *path), problem) for path, problem in _repeats(args))]
    if schema is None or themis is None or faults:
        raise ConfigFaults(faults)
    http = schema.http_options
    return ServeConfig(document, themis, http.host or "127.0.0.1", http.port, app.get("route_prefix") or "/")


class _Loader(yaml.SafeLoader):
    """SafeLoader that notes keys standing twice in one mapping, of which YAML would silently take the last."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.repeated: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                self.repeated.append(f"line {line}: key '{key.value}' stands here and on line {seen[key.value]}")
            elif isinstance(key, yaml.ScalarNode):
                seen[key.value] = line
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        document = loader.get_single_data()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFaults([f"{path}: cannot be read: {error}"]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigFaults([f"line {mark.line + 1 if mark else '?'}: {error.problem or error.context}"]) from error
    except yaml.YAMLError as error:
        raise ConfigFaults([f"{path}: {error}"]) from error
    if loader.repeated:
        raise ConfigFaults(loader.repeated)
    if not isinstance(document, dict):
        raise ConfigFaults([f"{path}: must hold a mapping, with 'applications'"])
    return document


def _application(document: Mapping[str, Any]) -> tuple[int, dict[str, Any] | None]:
    applications = document.get("applications")
    for index, app in enumerate(applications if isinstance(applications, list) else []):
        if isinstance(app, dict) and app.get("name") == APPLICATION:
            return index, app
    return 0, None


def _args_with_key(args: Mapping[str, Any], key: KeyConfig) -> dict[str, Any]:
    identity = args.get("identity") or {}
    return {**args, "identity": {**identity, "keys": [*(identity.get("keys") or ()), key.model_dump()]}}


def _repeats(args: Any) -> Iterator[tuple[Path_, str]]:
    """Where a name or hash that must be unique stands a second time. `args` may be wrong in any other way."""
    for named in (list(_named_models(args)), list(_named_keys(args, "sha256")), list(_named_keys(args, "name"))):
        first: dict[str, Path_] = {}
        for path, name in named:
            if name in first:
                yield path, f"'{name}' stands at {_dotted(first[name])} already"
            else:
                first[name] = path


def _named_models(args: Any) -> Iterator[tuple[Path_, str]]:
    for index, pool in _items(args, "pools"):
        yield from _name(pool, ("pools", index), "name")
        for place, adapter in _items(pool, "adapters"):
            yield from _name(adapter, ("pools", index, "adapters", place), "name")


def _named_keys(args: Any, field: str) -> Iterator[tuple[Path_, str]]:
    identity = args.get("identity") if isinstance(args, dict) else None
    for index, key in _items(identity, "keys"):
        yield from _name(key, ("identity", "keys", index), field)


def _items(section: Any, field: str) -> Iterable[tuple[int, Any]]:
    items = section.get(field) if isinstance(section, dict) else None
    return enumerate(items if isinstance(items, list | tuple) else ())


def _name(section: Any, path: Path_, field: str) -> Iterator[tuple[Path_, str]]:
    if isinstance(section, dict) and isinstance(section.get(field), str):
        yield (*path, field), section[field]


def _described(error: ValidationError, data: Any, at: Path_) -> list[str]:
    return [
        _line((*at, *_readable(fault, data)), _problem(fault))
        for fault in error.errors(include_url=False)
        # pydantic counts only the right items of a tuple; its wrong ones have faults of their own.
        if not (fault["type"] == "too_short" and fault["input"])
    ]


def _unknown(model: type[BaseModel], data: Any, at: Path_ = ()) -> Iterator[str]:
    """Keys that Serve's schemas, which ignore what they do not know, would pass over in silence."""
    if not isinstance(data, dict):
        return
    for key, value in data.items():
        field = model.model_fields.get(key)
        if field is None:
            yield _line((*at, key), "unknown key")
            continue
        for inner in _models(field.annotation):
            inside: list[tuple[Path_, Any]] = [((key,), value)]
            if isinstance(value, list):
                inside = [((key, index), item) for index, item in enumerate(value)]
            for place, item in inside:
                yield from _unknown(inner, item, (*at, *place))


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names, whatever optional or list is around them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _readable(fault: ErrorDetails, data: Any) -> Path_:
    """The path that pydantic tells without the tags of discriminated unions, which stand in no file."""
    path: list[str | int] = []
    for part in fault["loc"]:
        if isinstance(data, dict):
            if part not in data and data.get("kind") == part:
                continue
            data = data.get(part)
        elif isinstance(data, Sequence) and isinstance(part, int) and part < len(data):
            data = data[part]
        path.append(part)
    if fault["type"].startswith("union_tag_"):
        path.append("kind")
    return tuple(path)


def _problem(fault: ErrorDetails) -> str:
    match fault["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "missing" | "union_tag_not_found":
            return "missing"
        case "union_tag_invalid":
            return f"'{fault['ctx']['tag']}' is none of {fault['ctx']['expected_tags']}"
        case _:
            return fault["msg"].removeprefix("Value error, ")


def _dotted(path: Path_) -> str:
    return ".".join(map(str, path))


def _line(path: Path_, problem: str) -> str:
    return f"{_dotted(path)}: {problem}" if path else problem
