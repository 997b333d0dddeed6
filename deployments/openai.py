"""A request at the edge: its body becomes a `Request`, or the call ends with 400 naming the field at fault.

What travels on is what was checked. It knows no models and no replicas.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from deployments.config import GatewayConfig
from deployments.prompts import check_messages, prompt_size
from deployments.requests import Chat, Completion, Sampling, shape
from deployments.structured import check_structured_outputs
from policies.errors import InvalidRequest
from policies.fields import Endpoint, sift
from policies.grammars import check_schema

__all__ = ["Endpoint", "Request", "RequestRules", "check_fits", "parse"]

_FLAT = 200  # opening brackets that cannot nest deeper than orjson writes (254)
_MAX_STOPS = 4
_MAX_STOP_CHARS = 1024


@dataclass(frozen=True, slots=True)
class RequestRules:
    """What a gateway lets callers ask for."""

    passthrough: frozenset[str] = frozenset()
    owned_fields: Literal["refuse", "overwrite"] = "refuse"
    max_n: int = 8
    max_tokens: int = 32768
    max_schema_bytes: int = 65536
    recursive_schemas: bool = False

    @classmethod
    def of(cls, config: GatewayConfig) -> "RequestRules":
        return cls(
            passthrough=frozenset(config.passthrough),
            owned_fields=config.owned_fields,
            max_n=config.max_n,
            max_tokens=config.max_tokens,
            max_schema_bytes=int(config.max_schema_kib * 1024),
            recursive_schemas=config.recursive_schemas,
        )


@dataclass(frozen=True, slots=True)
class Request:
    """A valid request.

    max_tokens: tokens of each choice, None where the caller sets no bound.
    longest_ids: tokens of the longest prompt that came as ids, 0 without one.
    fields: the parsed body, without what was dropped.
    """

    endpoint: Endpoint
    model: str
    stream: bool
    include_usage: bool
    n: int
    max_tokens: int | None
    longest_ids: int
    fields: Mapping[str, Any] = field(repr=False)
    dropped: tuple[str, ...] = ()

    @property
    def prompt_bytes(self) -> int:
        """Upper bound of the prompt's tokens, without what a template adds of its own.

        Their number where token ids came, else UTF-8 bytes. Counted when asked for.
        """
        if self.endpoint is Endpoint.CHAT:
            return len(orjson.dumps((self.fields["messages"], self.fields.get("tools"))))
        return prompt_size(self.fields["prompt"])[0]

    def body(self, model: str, **overrides: Any) -> bytes:
        """What an engine is sent, under its own name of the model.

        Always written anew from what was checked: of a key that stood twice in the body another parser could take the
        other value.
        """
        return orjson.dumps({**self.fields, "model": model, **overrides})


def parse(endpoint: str, body: bytes, rules: RequestRules) -> Request:
    """The request in a body. Raises InvalidRequest naming the first field at fault."""
    kind = Endpoint(endpoint)
    fields = _load(body)
    dropped = sift(fields, kind, rules.passthrough, rules.owned_fields)
    for name in dropped:
        del fields[name]
    asked = shape(Chat, fields) if kind is Endpoint.CHAT else shape(Completion, fields)
    max_tokens = _check_sampling(asked, fields, rules)
    if isinstance(asked, Chat):
        check_messages(asked.messages)
        _check_tools(asked, rules)
        longest_ids = 0
    else:
        _, longest_ids = prompt_size(asked.prompt)
    options = asked.stream_options
    return Request(
        endpoint=kind,
        model=asked.model,
        stream=asked.stream or False,
        include_usage=bool(options and options.include_usage),
        n=asked.n or 1,
        max_tokens=max_tokens,
        longest_ids=longest_ids,
        fields=fields,
        dropped=dropped,
    )


def check_fits(request: Request, max_model_len: int | None) -> None:
    """Raises InvalidRequest when a request cannot fit a model whatever its text's tokens: only ids can be counted.

    `max_model_len` is None while no replica has told it; then the engine decides.
    """
    if max_model_len is None:
        return
    if request.max_tokens is not None and request.max_tokens > max_model_len:
        message = f"You asked for {request.max_tokens} tokens, but this model's context has {max_model_len}."
        raise InvalidRequest(message, param=_limit_name(request.fields))
    if request.longest_ids > max_model_len:
        message = f"Your prompt has {request.longest_ids} tokens, but this model's context has {max_model_len}."
        raise InvalidRequest(message, param="prompt")


def _load(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
        if body.count(b"{") + body.count(b"[") > _FLAT:
            orjson.dumps(fields)  # reads deeper than it writes
    except orjson.JSONDecodeError as fault:
        raise InvalidRequest(f"The body is not valid JSON: {fault}.") from fault
    except orjson.JSONEncodeError as fault:
        raise InvalidRequest("The body is nested too deeply.") from fault
    if not isinstance(fields, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return fields


def _check_sampling(asked: Chat | Completion, fields: dict[str, Any], rules: RequestRules) -> int | None:
    """What single types cannot say; returns the tokens asked for each choice."""
    if asked.stream_options is not None and not asked.stream:
        raise InvalidRequest("`stream_options` goes with `stream: true`.", param="stream_options")
    _check_most("n", asked.n, rules.max_n)
    if isinstance(asked, Completion):
        _check_best_of(asked, rules)
    elif asked.top_logprobs and not asked.logprobs:
        raise InvalidRequest("`top_logprobs` goes with `logprobs: true`.", param="top_logprobs")
    _check_stop(asked.stop)
    _check_response_format(asked, rules)
    if fields.get("structured_outputs") is not None:
        check_structured_outputs(
            fields["structured_outputs"],
            max_bytes=rules.max_schema_bytes,
            param="structured_outputs",
            allow_recursion=rules.recursive_schemas,
        )
    return _check_max_tokens(asked, fields, rules)


def _check_best_of(asked: Completion, rules: RequestRules) -> None:
    _check_most("best_of", asked.best_of, rules.max_n)
    if asked.best_of is not None and asked.best_of < (asked.n or 1):
        raise InvalidRequest(f"`best_of` ({asked.best_of}) is below `n` ({asked.n}).", param="best_of")


def _check_max_tokens(asked: Chat | Completion, fields: dict[str, Any], rules: RequestRules) -> int | None:
    _check_most("max_tokens", asked.max_tokens, rules.max_tokens)
    # An evaluation scores a prompt by echoing it and generating nothing.
    if asked.max_tokens == 0 and not (isinstance(asked, Completion) and asked.echo):
        raise InvalidRequest("`max_tokens` must be at least 1.", param="max_tokens")
    tokens = asked.max_tokens
    if isinstance(asked, Chat) and asked.max_completion_tokens is not None:
        _check_most("max_completion_tokens", asked.max_completion_tokens, rules.max_tokens)
        tokens = asked.max_completion_tokens
    if asked.min_tokens and tokens is not None and asked.min_tokens > tokens:
        words = f"`min_tokens` ({asked.min_tokens}) is above `{_limit_name(fields)}` ({tokens})."
        raise InvalidRequest(words, param="min_tokens")
    _check_most("min_tokens", asked.min_tokens, rules.max_tokens)
    return tokens


def _limit_name(fields: Mapping[str, Any]) -> str:
    return "max_tokens" if fields.get("max_completion_tokens") is None else "max_completion_tokens"


def _check_most(name: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise InvalidRequest(f"`{name}` is {value}, at most {most} is allowed.", param=name)


def _check_stop(stop: Any) -> None:
    stops = [stop] if isinstance(stop, str) else stop
    if stops is None:
        return
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS:
        raise InvalidRequest(f"`stop` must be a string or a list of at most {_MAX_STOPS}.", param="stop")
    if not all(isinstance(each, str) and 0 < len(each) <= _MAX_STOP_CHARS for each in stops):
        words = f"`stop` must be strings that are not empty, of at most {_MAX_STOP_CHARS} characters."
        raise InvalidRequest(words, param="stop")


def _check_response_format(asked: Sampling, rules: RequestRules) -> None:
    answer = asked.response_format
    if answer is None or answer.type != "json_schema":
        return
    if answer.json_schema is None:
        raise InvalidRequest("`json_schema` is missing.", param="response_format.json_schema")
    place = "response_format.json_schema.schema"
    if not answer.json_schema.schema_:
        raise InvalidRequest(f"`{place}` is missing or empty. Use `json_object` for any object.", param=place)
    _check_schema(answer.json_schema.schema_, place, rules)


def _check_tools(asked: Chat, rules: RequestRules) -> None:
    names = set()
    for index, tool in enumerate(asked.tools or ()):
        names.add(tool.function.name)
        if tool.function.parameters:
            _check_schema(tool.function.parameters, f"tools.{index}.function.parameters", rules)
    if asked.tool_choice in (None, "none"):
        return
    if not names:
        raise InvalidRequest("`tool_choice` goes with `tools`.", param="tool_choice")
    if not isinstance(asked.tool_choice, str | None) and asked.tool_choice.function.name not in names:
        words = f"`{asked.tool_choice.function.name}` is not among `tools`."
        raise InvalidRequest(words, param="tool_choice.function.name")


def _check_schema(schema: Any, place: str, rules: RequestRules) -> None:
    check_schema(schema, max_bytes=rules.max_schema_bytes, param=place, allow_recursion=rules.recursive_schemas)
