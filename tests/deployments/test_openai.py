"""What enters at the edge is valid, bounded and the caller's to ask for; what is valid travels on unchanged."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import httpx2
import openai
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from deployments.config import GatewayConfig
from deployments.openai import Endpoint, Request, RequestRules, check_fits, parse
from policies.errors import InvalidRequest

RULES = RequestRules.of(GatewayConfig())
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION = {"model": "m", "prompt": "Hi"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def chat(rules: RequestRules = RULES, **fields: Any) -> Request:
    return parse(Endpoint.CHAT, orjson.dumps(CHAT | fields), rules)


def completion(rules: RequestRules = RULES, **fields: Any) -> Request:
    return parse(Endpoint.COMPLETIONS, orjson.dumps(COMPLETION | fields), rules)


def refusal(ask: Callable[[], Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        ask()
    assert refused.value.message
    return refused.value


def said(*content: Any, **fields: Any) -> dict[str, Any]:
    """One user's message made of parts."""
    return {"messages": [{"role": "user", "content": list(content)} | fields]}


def answer_like(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


TEXT = {"type": "text", "text": "Hi"}

BAD_ANYWHERE: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": ""}, "model"),
    ({"model": 3}, "model"),
    ({"stream": "true"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"stream": True, "stream_options": {"other": 1}}, "stream_options.other"),
    ({"stream": True, "stream_options": []}, "stream_options"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"top_p": 1.1}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"n": 1.5}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 32769}, "max_tokens"),
    ({"max_tokens": "9"}, "max_tokens"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"stop": 1}, "stop"),
    ({"stop": "x" * 1025}, "stop"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": []}, "logit_bias"),
    ({"logit_bias": {str(n): "x" for n in range(1025)}}, "logit_bias"),
    ({"user": 1}, "user"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ({"min_tokens": 10**6}, "min_tokens"),
    ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
    ({"allowed_token_ids": ["a"]}, "allowed_token_ids.0"),
    ({"bad_words": [""]}, "bad_words.0"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {}}, "response_format.type"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format.json_schema.name"),
    (answer_like(None), "response_format.json_schema.schema"),
    (answer_like({}), "response_format.json_schema.schema"),
    (answer_like({"$ref": "#"}), "response_format.json_schema.schema"),
    (answer_like({"properties": {"a": {"$ref": "#"}}}), "response_format.json_schema.schema"),
    (answer_like({"pattern": "(a*)*\\1"}), "response_format.json_schema.schema"),
    (answer_like({"description": "x" * 70_000}), "response_format.json_schema.schema"),
    ({"priority": -5}, "priority"),
    ({"cache_salt": "s"}, "cache_salt"),
    ({"chat_template": "{{ 1 }}"}, "chat_template"),
    ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ({"warp": 9}, "warp"),
]

BAD_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": ["Hi"]}, "messages.0"),
    ({"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}, "messages.1.role"),
    ({"messages": [{"role": "boss", "content": "b"}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    ({"messages": [{"role": "assistant"}]}, "messages.0.content"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.tool_call_id"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages.0.tool_calls.0.type"),
    ({"messages": [CHAT["messages"][0]] * 5000}, "messages"),
    (said(), "messages.0.content"),
    (said("Hi"), "messages.0.content.0"),
    (said({"text": "Hi"}), "messages.0.content.0"),
    (said({"type": "text"}), "messages.0.content.0.text"),
    (said(TEXT, {"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}}), "messages.0.content.1"),
    (said(TEXT, {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}), "messages.0.content.1"),
    (said(TEXT, {"type": "file", "file": {"file_id": "f"}}), "messages.0.content.1"),
    (said(TEXT, TEXT | {"image_url": "http://10.0.0.1/", "uuid": "u"}), "messages.0.content.1"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_completion_tokens": 32769}, "max_completion_tokens"),
    ({"logprobs": 3}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"tools": []}, "tools"),
    ({"tools": [TOOL] * 129}, "tools"),
    ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "tools.0.type"),
    ({"tools": [{"type": "function"}]}, "tools.0.function"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
    ({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]}, "tools.0.function.parameters"),
    (
        {"tools": [TOOL, {"type": "function", "function": {"name": "a", "parameters": {"$ref": "#"}}}]},
        "tools.1.function.parameters",
    ),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": "some"}, "tool_choice"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        "tool_choice.function.name",
    ),
    ({"store": True}, "store"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"modalities": ["audio"]}, "modalities.0"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
    ({"echo": True}, "echo"),
    ({"prompt": "Hi"}, "prompt"),
]

BAD_COMPLETION: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [""]}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [[1, "a"]]}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": ["a"] * 65}, "prompt"),
    ({"best_of": 9}, "best_of"),
    ({"best_of": 1, "n": 2}, "best_of"),
    ({"echo": 1}, "echo"),
    ({"suffix": 1}, "suffix"),
    ({"logprobs": 6}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"messages": []}, "messages"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_ANYWHERE)
@pytest.mark.parametrize("ask", [chat, completion])
def test_a_bad_field_is_named(ask: Callable[..., Request], fields: dict[str, Any], param: str) -> None:
    assert refusal(lambda: ask(**fields)).param == param


@pytest.mark.parametrize(("fields", "param"), BAD_CHAT)
def test_a_bad_field_of_a_chat_is_named(fields: dict[str, Any], param: str) -> None:
    assert refusal(lambda: chat(**fields)).param == param


@pytest.mark.parametrize(("fields", "param"), BAD_COMPLETION)
def test_a_bad_field_of_a_completion_is_named(fields: dict[str, Any], param: str) -> None:
    assert refusal(lambda: completion(**fields)).param == param


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(missing: str) -> None:
    fields = {name: value for name, value in CHAT.items() if name != missing}
    assert refusal(lambda: parse(Endpoint.CHAT, orjson.dumps(fields), RULES)).param == missing


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nul",
        b"\xff",
        b'{"model": NaN}',
        b"[]",
        b'"m"',
        b"3",
        b"[" * 100_000,
        b'{"a":' * 300 + b"1" + b"}" * 300,
    ],
)
def test_what_is_no_json_object_is_refused_in_words(body: bytes) -> None:
    assert refusal(lambda: parse(Endpoint.CHAT, body, RULES)).status == 400


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": None, "n": None, "stop": None, "temperature": None, "tools": None, "response_format": None},
        {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0, "top_p": 1},
        {"messages": [{"role": "system", "content": "x"}, {"role": "developer", "content": [TEXT]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}]},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}},
        {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
        {"tool_choice": "none", "store": False, "metadata": {"a": "b"}, "modalities": ["text"]},
        {"response_format": {"type": "json_object"}, "logit_bias": {"50256": -100}, "seed": -(2**63)},
        {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 2, "stop_token_ids": [2]},
        answer_like({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}),
    ],
)
def test_valid_chats_travel_unchanged(fields: dict[str, Any]) -> None:
    body = b" " + orjson.dumps(CHAT | fields, option=orjson.OPT_INDENT_2)
    assert orjson.loads(parse(Endpoint.CHAT, body, RULES).body("m")) == CHAT | fields


def test_of_a_key_that_stands_twice_only_the_checked_value_travels() -> None:
    """An engine whose parser takes the first one would otherwise serve what was never checked."""
    body = b'{"model":"secret","n":100,' + orjson.dumps(CHAT | {"n": 1})[1:]
    sent = parse(Endpoint.CHAT, body, RULES).body("m")
    assert orjson.loads(sent) == CHAT | {"n": 1}
    assert (sent.count(b'"model"'), sent.count(b'"n"')) == (1, 1)


def test_an_answer_of_an_assistant_may_be_calls_alone() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "seen"},
    ]
    assert chat(messages=turns).fields["messages"] == turns


def test_another_model_name_changes_that_field_alone() -> None:
    request = chat(temperature=0.5, seed=1)
    assert orjson.loads(request.body("m@abc")) == CHAT | {"model": "m@abc", "temperature": 0.5, "seed": 1}
    assert orjson.loads(request.body("m", max_tokens=3))["max_tokens"] == 3


def test_an_owned_field_is_dropped_where_the_gateway_overwrites() -> None:
    request = chat(RequestRules(owned_fields="overwrite"), priority=-9, seed=1)
    assert request.dropped == ("priority",)
    assert orjson.loads(request.body("m")) == CHAT | {"seed": 1}


def test_what_an_operator_lets_pass_passes() -> None:
    rules = RequestRules.of(GatewayConfig(passthrough=("priority", "warp")))
    assert chat(rules, priority=1, warp=9).dropped == ()


@pytest.mark.parametrize(
    ("outputs", "param"),
    [
        ({"json": {"$ref": "#"}}, "structured_outputs.json"),
        ({"json": '{"$ref": "#"}'}, "structured_outputs.json"),
        ({"json": "{"}, "structured_outputs.json"),
        ({"regex": "(?=a)"}, "structured_outputs.regex"),
        ({"choice": []}, "structured_outputs.choice"),
        ({"grammar": ""}, "structured_outputs.grammar"),
        ({"json_object": False}, "structured_outputs.json_object"),
        ({"structural_tag": "{}"}, "structured_outputs.structural_tag"),
        ({"regex": "a", "whitespace_pattern": "("}, "structured_outputs.whitespace_pattern"),
        ({"regex": "a", "choice": ["a"]}, "structured_outputs"),
        ({}, "structured_outputs"),
        ("a", "structured_outputs"),
    ],
)
def test_structured_outputs_are_guarded_where_they_pass(outputs: Any, param: str) -> None:
    rules = RequestRules(passthrough=frozenset({"structured_outputs"}))
    for sound in ({"regex": "a+"}, {"choice": ["a"]}, {"json": {"type": "object"}}, {"json": '{"type": "object"}'}):
        assert chat(rules, structured_outputs=sound).body("m")
    assert refusal(lambda: chat(rules, structured_outputs=outputs)).param == param


def test_recursive_schemas_pass_where_configured() -> None:
    rules = RequestRules.of(GatewayConfig(recursive_schemas=True))
    assert chat(rules, **answer_like({"type": "object", "properties": {"next": {"$ref": "#"}}})).body("m")
    assert refusal(lambda: chat(rules, **answer_like({"$ref": "#"}))).param == "response_format.json_schema.schema"


def test_a_request_knows_what_was_asked() -> None:
    request = chat(stream=True, stream_options={"include_usage": True}, n=3, max_tokens=9, max_completion_tokens=7)
    assert (request.model, request.stream, request.include_usage) == ("m", True, True)
    assert (request.n, request.max_tokens) == (3, 7)
    bare = chat()
    assert (bare.stream, bare.include_usage, bare.n, bare.max_tokens) == (False, False, 1, None)


@pytest.mark.parametrize(
    ("prompt", "size"),
    [("häß", 5), (["ab", "é"], 4), ([1, 2, 3], 3), ([[1, 2], [3]], 3)],
)
def test_a_prompt_is_measured_in_bytes_or_ids(prompt: Any, size: int) -> None:
    assert completion(prompt=prompt).prompt_bytes == size


def test_the_size_of_a_chat_bounds_all_its_text() -> None:
    text = "ä" * 100
    request = chat(messages=[{"role": "user", "content": text}], tools=[TOOL])
    assert request.prompt_bytes >= len(text.encode()) + len(orjson.dumps(TOOL))


def test_scoring_a_prompt_generates_nothing() -> None:
    assert completion(echo=True, max_tokens=0, logprobs=1).max_tokens == 0


def test_what_cannot_fit_a_model_is_refused_with_both_numbers() -> None:
    asked = refusal(lambda: check_fits(chat(max_tokens=3000), 2048))
    assert asked.param == "max_tokens"
    asked_new = refusal(lambda: check_fits(chat(max_completion_tokens=3000), 2048))
    assert asked_new.param == "max_completion_tokens"
    ids = refusal(lambda: check_fits(completion(prompt=[[1], [1] * 3000]), 2048))
    assert ids.param == "prompt"
    for fault in (asked, asked_new, ids):
        assert "3000" in fault.message
        assert "2048" in fault.message
    check_fits(completion(prompt=[[1] * 1500, [1] * 1500], max_tokens=2048), 2048)
    check_fits(chat(messages=[{"role": "user", "content": "x" * 9000}]), 2048)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_names = st.sampled_from(sorted({name for fields, _ in BAD_ANYWHERE + BAD_CHAT + BAD_COMPLETION for name in fields}))
_values = _json | st.sampled_from(
    [fields[name] for fields, _ in BAD_ANYWHERE + BAD_CHAT + BAD_COMPLETION for name in fields]
)


@pytest.mark.parametrize(("endpoint", "sound"), [(Endpoint.CHAT, CHAT), (Endpoint.COMPLETIONS, COMPLETION)])
@settings(deadline=None)  # the machine may be busy
@given(changes=st.dictionaries(_names, _values, max_size=3))
@example(changes={"messages": [{"role": "user", "content": [{"type": []}]}]})
@example(changes={"tool_choice": {"type": "function"}, "tools": [TOOL]})
def test_any_json_is_either_a_request_or_refused(
    endpoint: Endpoint, sound: Mapping[str, Any], changes: dict[str, Any]
) -> None:
    """Nothing but InvalidRequest, and what passes can be written again for another model's name."""
    body = orjson.dumps({**sound, **changes})
    with contextlib.suppress(InvalidRequest):
        request = parse(endpoint, body, RULES)
        assert orjson.loads(request.body(request.model)) == orjson.loads(body)
        assert orjson.loads(request.body("x")) == orjson.loads(body) | {"model": "x"}


@settings(deadline=None)
@given(st.binary(max_size=40) | _json.map(orjson.dumps))
def test_any_bytes_are_either_a_request_or_refused(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        parse(Endpoint.COMPLETIONS, body, RULES)


class Answer(BaseModel):
    words: list[str]
    mood: str | None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": True},
        {"tools": [openai.pydantic_function_tool(Answer)], "tool_choice": "auto"},
        {"response_format": {"type": "json_object"}},
        answer_like(openai.lib._pydantic.to_strict_json_schema(Answer)),
        {"stream": True, "stream_options": {"include_usage": True}},
        {"logprobs": True, "top_logprobs": 5},
        {"n": 2, "stop": ["a", "b"], "seed": 7, "temperature": 0.0, "max_completion_tokens": 5, "user": "u"},
        {"extra_body": {"top_k": 1}},
    ],
)
async def test_chats_of_the_official_sdk_pass(fields: dict[str, Any]) -> None:
    async with sdk() as (client, sent):
        await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], **fields)
    assert orjson.loads(parse(Endpoint.CHAT, sent[0], RULES).body("m")) == orjson.loads(sent[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Hi"},
        {"prompt": [1, 2]},
        {"prompt": ["a", "b"], "n": 2, "best_of": 2, "logprobs": 2, "echo": True, "stop": "x", "seed": 1},
        {"prompt": "Hi", "stream": True, "stream_options": {"include_usage": False}, "suffix": None},
    ],
)
async def test_completions_of_the_official_sdk_pass(fields: dict[str, Any]) -> None:
    async with sdk() as (client, sent):
        await client.completions.create(model="m", **fields)
    assert orjson.loads(parse(Endpoint.COMPLETIONS, sent[0], RULES).body("m")) == orjson.loads(sent[0])


@contextlib.asynccontextmanager
async def sdk() -> Any:
    """The official client, and the bodies that it sends to a server which answers everything alike."""
    sent: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.content)
        return httpx2.Response(200, json={"choices": []})

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    async with openai.AsyncOpenAI(api_key="k", base_url="http://themis/v1", http_client=http) as client:
        yield client, sent
