"""What a client gets through the gateway is the engine's own answer, apart from id, time and the public model name."""

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI, AuthenticationError, NotFoundError

from adapters.catalog import AdapterConfig
from tests.path.cluster import SECRET, Path, running, simulated

CHAT = {"messages": [{"role": "user", "content": "Tell me of rivers."}], "max_tokens": 12, "temperature": 0}
TEXT = {"prompt": "Tell me of rivers.", "max_tokens": 12, "temperature": 0}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "town",
        "schema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
}
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/chat/completions", CHAT),
    ("/chat/completions", {**CHAT, "n": 2, "seed": 7, "temperature": 1.0}),
    ("/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2}),
    ("/chat/completions", {**CHAT, "response_format": SCHEMA, "max_tokens": 60}),
    ("/chat/completions", {**CHAT, "tools": [TOOL], "tool_choice": "required", "max_tokens": 60}),
    ("/chat/completions", {**CHAT, "stop": ["e"]}),
    ("/completions", TEXT),
    ("/completions", {**TEXT, "logprobs": 1}),
    ("/completions", {**TEXT, "prompt": ["one", "two"], "n": 2, "seed": 3, "temperature": 1.0}),
]


@pytest.fixture(scope="module", params=["sim", "an-adapter"])
def model(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def path() -> AsyncGenerator[Path, None]:
    pool = simulated(decode_ms=0.2).model_copy(
        update={"adapters": (AdapterConfig(name="an-adapter", source="sim:one"),)}
    )
    async with running([pool]) as path:
        yield path


@pytest.mark.parametrize(("endpoint", "payload"), CALLS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_the_body_equals_the_engines_own(
    path: Path, model: str, endpoint: str, payload: dict[str, Any], stream: bool
) -> None:
    await assert_same_body(path, model, endpoint, payload, stream=stream)


async def assert_same_body(
    path: Path,
    model: str,
    endpoint: str,
    payload: dict[str, Any],
    *,
    stream: bool,
    reduced: Callable[[list[Any]], Any] = list,
) -> None:
    """Through the gateway and straight to the replica, the answers differ in nothing that `comparable` keeps.

    `reduced` takes out of the bodies what an engine itself does not do twice alike.
    """
    more = {"stream_options": {"include_usage": True}} if stream else {}
    payload = {**payload, "stream": stream, **more}
    server = path.servers[0]
    engine_model = server.report().adapters.get(model, model)
    # The first call fills the prefix cache, so that the two that are compared find it alike.
    await answer_of(path.url + endpoint, {**payload, "model": model}, path.headers)
    url, headers = f"{server.address}/v1{endpoint}", {"x-themis-secret": SECRET}
    direct = await answer_of(url, {**payload, "model": engine_model}, headers)
    through = await answer_of(path.url + endpoint, {**payload, "model": model}, path.headers)
    one = comparable(through, stream=stream, model=model)
    other = comparable(direct, stream=stream, model=engine_model)
    assert reduced(one) == reduced(other)


async def answer_of(url: str, payload: dict[str, Any], headers: dict[str, str]) -> str:
    async with aiohttp.ClientSession() as session, session.post(url, json=payload, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.text()


def comparable(text: str, *, stream: bool, model: str) -> list[Any]:
    """All that must be equal: whole bodies, with id and time blanked and the model name checked."""
    events = (
        [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")] if stream else [text]
    )
    bodies = [json.loads(event) for event in events if event != "[DONE]"]
    for body in bodies:
        assert body.pop("model") == model
        body.pop("id")
        body.pop("created")
        _blank_tool_ids(body)
    # With several choices the order among them is the batch's; within one it must not change.
    return sorted(bodies, key=lambda body: body["choices"][0]["index"] if body["choices"] else 1_000)


def _blank_tool_ids(body: Any) -> None:
    for choice in body.get("choices", ()):
        part = choice.get("message") or choice.get("delta") or {}
        for call in part.get("tool_calls") or ():
            call.pop("id", None)


async def test_the_official_client_works(path: Path) -> None:
    async with AsyncOpenAI(base_url=path.url, api_key=path.key) as client:
        models = [card.id async for card in client.models.list()]
        assert models == ["sim", "an-adapter"]
        assert (await client.models.retrieve("an-adapter")).model_extra["parent"] == "sim"  # type: ignore[index]
        answer = await client.chat.completions.create(model="sim", messages=[{"role": "user", "content": "hi"}])
        assert answer.model == "sim"
        stream = await client.chat.completions.create(
            model="an-adapter", messages=[{"role": "user", "content": "hi"}], stream=True, max_tokens=5
        )
        chunks = [chunk async for chunk in stream]
        assert {chunk.model for chunk in chunks} == {"an-adapter"}
        with pytest.raises(NotFoundError):
            await client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hi"}])
    async with AsyncOpenAI(base_url=path.url, api_key="wrong") as client:
        with pytest.raises(AuthenticationError):
            await client.models.list()


async def test_every_answer_has_a_request_id_and_our_call_id(path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{path.root}/healthz") as answer:
            assert answer.headers["x-request-id"] == answer.headers["x-themis-call-id"]
        async with session.get(f"{path.root}/healthz", headers={"x-request-id": "mine"}) as answer:
            assert answer.headers["x-request-id"] == "mine"
            assert answer.headers["x-themis-call-id"] != "mine"


async def test_usage_reaches_the_gateways_record_for_streams_without_include_usage(path: Path) -> None:
    payload = {**CHAT, "model": "sim", "stream": True}
    text = await answer_of(f"{path.url}/chat/completions", payload, path.headers)
    assert '"usage"' not in text or '"usage":null' in text
    await path.at_rest()
    metrics = path.gateway.metrics.render().decode()
    assert 'themis_tokens_total{kind="generated",model="sim"}' in metrics
    generated = path.servers[0]._shell.records[-1].usage.generated
    assert f'themis_tokens_total{{kind="generated",model="sim"}} {float(generated)}' in metrics
