"""What a request asks of the simulated engine: OpenAI's fields, with vLLM's additions, checked and made plain.

Fields that it does not know are ignored, as vLLM does. Knows no limits of the engine and no adapters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, Field, ValidationError

from deployments.engines.simulated.tokens import MARKERS, chat_prompt, encode
from policies.errors import InvalidRequest

_MAX_N = 128
_MAX_TOP = 20
_MAX_STOPS = 4
_COMPLETION_TOKENS = 16  # what OpenAI and vLLM give a completion that sets no max_tokens


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """One call, whatever its API. Without `max_tokens` an answer goes on to the model's limit.

    `seed` None is greedy. `guided` answers are documents of `schema`; `tools` are those to choose one call from.
    `logprobs` is how many alternatives each token gets; None asks for none at all.
    """

    model: str
    chat: bool
    prompts: list[list[int]]
    n: int
    max_tokens: int | None
    min_tokens: int
    ignore_eos: bool
    seed: int | None
    stops: tuple[str, ...]
    logprobs: int | None
    stream: bool
    include_usage: bool
    guided: bool
    schema: Mapping[str, Any] | None
    tools: tuple[Tool, ...]
    priority: int
    salt: str | None


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Format(BaseModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class _Function(BaseModel):
    name: str
    parameters: dict[str, Any] = {}


class _Tool(BaseModel):
    type: Literal["function"] = "function"
    function: _Function


class _Message(BaseModel):
    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Body(BaseModel):
    model: str
    n: int | None = Field(default=1, ge=1, le=_MAX_N)
    max_tokens: int | None = Field(default=None, ge=1)
    min_tokens: int = Field(default=0, ge=0)
    ignore_eos: bool = False
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    temperature: float | None = Field(default=1.0, ge=0, le=2)
    stop: str | Annotated[list[str], Field(max_length=_MAX_STOPS)] | None = None
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    response_format: _Format | None = None
    priority: int = 0
    cache_salt: str | None = None

    def shared(self) -> dict[str, Any]:
        """The fields of a plan that both APIs spell alike."""
        if self.stream_options and not self.stream:
            raise InvalidRequest("Stream options can only be set with 'stream'.", param="stream_options")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or ()
        wanted = self.response_format
        guided = wanted is not None and wanted.type != "text"
        return {
            "model": self.model,
            "n": self.n or 1,
            "min_tokens": self.min_tokens,
            "ignore_eos": self.ignore_eos,
            "seed": None if self.temperature == 0 else self.seed or 0,
            "stops": tuple(stop for stop in stops if stop),
            "stream": bool(self.stream),
            "include_usage": bool(self.stream_options and self.stream_options.include_usage),
            "guided": guided,
            "schema": _schema(wanted) if wanted and wanted.type == "json_schema" else None,
            "priority": self.priority,
            "salt": self.cache_salt,
        }


class _ChatBody(_Body):
    messages: list[_Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=_MAX_TOP)
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _Tool | None = None

    def plan(self) -> Plan:
        turns = [(message.role, _content(message, place)) for place, message in enumerate(self.messages)]
        if self.tools:
            turns.insert(0, ("system", orjson.dumps([tool.model_dump() for tool in self.tools]).decode()))
        tools = self._wanted_tools()
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
        fields = self.shared()
        fields["guided"] = fields["guided"] or bool(tools)
        return Plan(
            chat=True,
            prompts=[chat_prompt(turns)],
            max_tokens=self.max_completion_tokens or self.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            tools=tools,
            **fields,
        )

    def _wanted_tools(self) -> tuple[Tool, ...]:
        """The tools of which one must be called; with `auto` the simulated model prefers to talk."""
        name = self.tool_choice.function.name if isinstance(self.tool_choice, _Tool) else None
        if name is None and self.tool_choice != "required":
            return ()
        tools = tuple(
            Tool(tool.function.name, tool.function.parameters)
            for tool in self.tools or ()
            if name in {None, tool.function.name}
        )
        if not tools:
            raise InvalidRequest("'tool_choice' asks for a tool that 'tools' does not have.", param="tool_choice")
        return tools


class _CompletionBody(_Body):
    prompt: str | list[int] | list[str] | list[list[int]] = Field(union_mode="smart")
    logprobs: int | None = Field(default=None, ge=0, le=_MAX_TOP)
    echo: bool | None = False
    suffix: str | None = None

    def plan(self) -> Plan:
        for name in ("echo", "suffix"):
            if getattr(self, name):
                raise InvalidRequest(f"The simulated engine has no '{name}'.", param=name)
        prompts = [encode(prompt) if isinstance(prompt, str) else prompt for prompt in self._prompts()]
        if not prompts or not all(prompts):
            raise InvalidRequest("The prompt is empty.", param="prompt")
        return Plan(
            chat=False,
            prompts=prompts,
            max_tokens=self.max_tokens or _COMPLETION_TOKENS,
            logprobs=self.logprobs,
            tools=(),
            **self.shared(),
        )

    def _prompts(self) -> list[Any]:
        if isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int)):
            return [self.prompt]
        return list(self.prompt)


def parse(body: bytes, *, chat: bool) -> Plan:
    """Raises InvalidRequest, naming the field."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        raise InvalidRequest(f"The body is not valid JSON: {fault}") from None
    try:
        return (_ChatBody if chat else _CompletionBody).model_validate(fields).plan()
    except ValidationError as fault:
        first = fault.errors(include_url=False, include_context=False, include_input=False)[0]
        param = str(first["loc"][0]) if first["loc"] else None
        raise InvalidRequest(f"{param or 'body'}: {first['msg']}", param=param) from None


def _schema(wanted: _Format) -> Mapping[str, Any]:
    schema = (wanted.json_schema or {}).get("schema")
    if not isinstance(schema, dict):
        raise InvalidRequest("'response_format.json_schema' needs a 'schema'.", param="response_format")
    return schema


def _content(message: _Message, place: int) -> str:
    """A message's text; calls that the assistant made are part of it."""
    if message.role not in MARKERS:
        raise InvalidRequest(f"messages[{place}]: unknown role '{message.role}'.", param="messages")
    parts = [message.content] if isinstance(message.content, str) else []
    for part in message.content if isinstance(message.content, list) else ():
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise InvalidRequest(f"messages[{place}]: the simulated engine takes text only.", param="messages")
        parts.append(part["text"])
    if message.tool_calls:
        parts.append(orjson.dumps(message.tool_calls).decode())
    return "\n".join(parts)
