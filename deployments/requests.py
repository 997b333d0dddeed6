"""The shape of OpenAI requests: types and bounds of single fields, and the words in which a fault is told.

It knows no rules of a cluster, and keeps nothing: what it has checked stays the JSON that came.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from policies.errors import InvalidRequest

_INT64 = 2**63
_FUNCTION_NAME = r"^[a-zA-Z0-9_-]{1,64}$"
MAX_MESSAGES = 4096

# Pydantic counts a mapping only after it has looked at, and complained of, each of its entries.
_MOST_ENTRIES = {"logit_bias": 1024, "metadata": 16, "stream_options": 8}

# Pydantic speaks Python where callers speak JSON.
_WORDS = {
    "dict_type": "Input should be an object",
    "list_type": "Input should be a list",
    "missing": "Field is missing",
    "model_type": "Input should be an object",
}

_Name = Annotated[str, Field(pattern=_FUNCTION_NAME)]
_Penalty = Annotated[float, Field(ge=-2, le=2)] | None
_TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=1024, fail_fast=True)] | None
_Words = Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=128)] | None


_Kind = TypeVar("_Kind", bound="_Shape")


class _Shape(BaseModel):
    # Fields that stand here nowhere are policies.fields' affair.
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class StreamOptions(_Shape):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchema(_Shape):
    name: _Name
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Shape):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Function(_Shape):
    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Shape):
    type: Literal["function"]
    function: Function


class NamedFunction(_Shape):
    name: _Name


class NamedTool(_Shape):
    type: Literal["function"]
    function: NamedFunction


class FunctionCall(_Shape):
    name: str
    arguments: str


class ToolCall(_Shape):
    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(_Shape):
    """`content` has shapes of its own (deployments.openai)."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Any = None
    name: str | None = None
    refusal: str | None = None
    tool_call_id: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128, fail_fast=True)] | None = None
    function_call: FunctionCall | None = None


class Sampling(_Shape):
    """What both endpoints share. `stop` has shapes of its own."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: _Penalty = None
    frequency_penalty: _Penalty = None
    logit_bias: (
        dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None
    ) = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    stop: Any = None
    user: Annotated[str, Field(max_length=1024)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=_INT64)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    length_penalty: float | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    stop_token_ids: _TokenIds = None
    allowed_token_ids: _TokenIds = None
    bad_words: _Words = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    thinking_token_budget: Annotated[int, Field(ge=-1, lt=_INT64)] | None = None


class Chat(Sampling):
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=8, fail_fast=True)] | None = None
    reasoning_effort: Annotated[str, Field(max_length=16)] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    service_tier: Annotated[str, Field(max_length=16)] | None = None
    safety_identifier: Annotated[str, Field(max_length=1024)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=1024)] | None = None
    include_reasoning: bool | None = None


class Completion(Sampling):
    """`prompt` has shapes of its own."""

    prompt: Any
    best_of: Annotated[int, Field(ge=1)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None


def shape(kind: type[_Kind], fields: dict[str, Any]) -> _Kind:
    """The fields as `kind` knows them. Raises InvalidRequest naming the first that has not its type."""
    for name, most in _MOST_ENTRIES.items():
        value = fields.get(name)
        if isinstance(value, dict) and len(value) > most:
            raise InvalidRequest(f"`{name}` has {len(value)} entries, at most {most} are allowed.", param=name)
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _fault_of(error, fields) from error


def _fault_of(error: ValidationError, fields: dict[str, Any]) -> InvalidRequest:
    """The first fault, told of the innermost field that it can be pinned to."""
    faults = [
        (_place(fault["loc"], fields), _WORDS.get(fault["type"], fault["msg"]))
        for fault in error.errors(include_url=False, include_input=False)
    ]
    first = faults[0][0][:1]
    place = max((place for place, _ in faults if place[:1] == first), key=len)
    words = dict.fromkeys(message for at, message in faults if at == place)
    param = ".".join(map(str, place))
    return InvalidRequest(f"`{param}`: {'; or '.join(words)}.", param=param)


def _place(loc: Sequence[int | str], fields: Any) -> tuple[int | str, ...]:
    """Pydantic's location without the names of unions' branches, which are no places in the request."""
    place: list[int | str] = []
    here = fields
    for step in loc:
        known: Any = step
        if (isinstance(here, dict) and step in here) or (isinstance(here, list) and isinstance(step, int)):
            here = here[known]
        elif not (isinstance(here, dict) and step is loc[-1]):  # the last one may be a field that is missing
            continue
        place.append(step)
    return tuple(place)
