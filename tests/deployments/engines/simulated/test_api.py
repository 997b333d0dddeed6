"""The API's edges: what is refused and how, and what a bare ASGI server may ask."""

from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest

from deployments.config import SimulatedEngine
from deployments.engines.simulated import Simulated
from policies.errors import InvalidRequest
from tests.engines.serving import serving
from tests.engines.subjects import started

_ASK = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
_CHAT = "/v1/chat/completions"
_TEXT = "/v1/completions"


@pytest.fixture
async def url() -> AsyncGenerator[str]:
    engine = Simulated(SimulatedEngine(decode_ms=1.0, max_model_len=100), "m")
    async with started(engine), serving(engine.app) as url:
        yield url


async def _ask(method: str, url: str, body: object = None) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.request(method, url, json=body) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (_CHAT, {"messages": []}, "messages"),
        (_CHAT, {"messages": [{"role": "wizard", "content": "x"}]}, "messages"),
        (_CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
        (_CHAT, {"top_logprobs": 2}, "top_logprobs"),
        (_CHAT, {"tool_choice": "required"}, "tool_choice"),
        (_CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
        (_CHAT, {"response_format": {"type": "json_schema"}}, "response_format"),
        (_CHAT, {"max_tokens": 100}, "messages"),
        (_CHAT, {"n": 0}, "n"),
        (_TEXT, {"prompt": ""}, "prompt"),
        (_TEXT, {"prompt": [10**6]}, "prompt"),
        (_TEXT, {"prompt": "x", "echo": True}, "echo"),
        (_TEXT, {"prompt": "x", "stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ],
)
async def test_a_field_that_cannot_be_kept_is_refused_by_name(
    url: str, path: str, fields: dict[str, object], param: str
) -> None:
    status, body = await _ask("POST", url + path, _ASK | fields)
    assert status == InvalidRequest.status
    assert body["error"]["param"] == param


async def test_unknown_paths_and_methods_get_the_same_envelope(url: str) -> None:
    for method, path, expected in (("GET", "/v1/nothing", 404), ("GET", _CHAT, 405)):
        status, body = await _ask(method, url + path)
        assert status == expected
        assert body["error"].keys() == {"message", "type", "param", "code"}


async def test_without_max_tokens_a_chat_goes_on_to_the_models_limit(url: str) -> None:
    _, body = await _ask("POST", url + _CHAT, _ASK | {"ignore_eos": True})
    assert body["usage"]["total_tokens"] == 100
    assert body["choices"][0]["finish_reason"] == "length"


async def test_parts_of_text_make_one_prompt(url: str) -> None:
    parts = [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]
    asked = {**_ASK, "messages": [{"role": "user", "content": parts}], "max_tokens": 1}
    _, body = await _ask("POST", url + _CHAT, asked)
    _, same = await _ask("POST", url + _CHAT, asked | {"messages": [{"role": "user", "content": "x\ny"}]})
    assert body["usage"]["prompt_tokens"] == same["usage"]["prompt_tokens"]


async def test_a_server_may_ask_for_its_lifespan() -> None:
    asked = iter(["lifespan.startup", "lifespan.shutdown"])
    told: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": next(asked)}

    async def send(message: Any) -> None:
        told.append(message["type"])

    await Simulated(SimulatedEngine(), "m").app({"type": "lifespan"}, receive, send)
    assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
