"""What a remote engine keeps from the other side, and what it keeps from the caller."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import orjson
import pytest
from aiohttp import web

from deployments.config import OpenAIEngine
from deployments.engines.base import Load
from deployments.engines.remote import Remote
from tests.engines.serving import Metering, serving, until
from tests.engines.subjects import started

_PATH = "/v1/chat/completions"
_ASK = {"model": "ours", "messages": [{"role": "user", "content": "hello"}]}
_USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def _vendor(handler: Handler) -> AsyncGenerator[str]:
    app = web.Application()
    app.router.add_post(_PATH, handler)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _remote(handler: Handler, key_env: str | None = None) -> AsyncGenerator[tuple[str, Remote, Metering]]:
    async with _vendor(handler) as vendor:
        engine = Remote(OpenAIEngine(url=f"{vendor}/v1", model="theirs", key_env=key_env), "ours")
        metering = Metering(engine.app)
        async with started(engine), serving(metering) as url:
            yield url, engine, metering
            await until(lambda: engine.load() == Load())


async def _post(url: str, **fields: object) -> tuple[int, bytes, dict[str, str]]:
    headers = {"authorization": "Bearer the-caller's", "x-themis-secret": "s", "cookie": "a=b", "api-key": "c"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url + _PATH, json=_ASK | fields, headers=headers) as answer,
    ):
        return answer.status, await answer.read(), {name.lower(): value for name, value in answer.headers.items()}


def _streaming(*parts: bytes) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        return response

    return answer


async def test_the_operators_key_goes_there_and_nothing_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VENDOR_KEY", "sk-operator")
    seen: list[tuple[dict[str, str], bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.json_response({"model": "theirs", "choices": [], "usage": _USAGE}, headers={"x-themis-credit": "9"})

    async with _remote(answer, "VENDOR_KEY") as (url, _, metering):
        status, body, headers = await _post(url)
    [(sent, asked)] = seen
    assert sent["authorization"] == "Bearer sk-operator"
    assert not {name for name in sent if name.startswith("x-themis")} | (sent.keys() & {"cookie", "api-key"})
    assert orjson.loads(asked)["model"] == "theirs"
    assert (status, orjson.loads(body)["model"]) == (200, "ours")
    assert "x-themis-credit" not in headers
    usage = metering.meters[0].usage
    assert (usage.prompt, usage.cached, usage.generated) == (5, 2, 7)


async def test_a_missing_key_is_named_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VENDOR_KEY", raising=False)
    with pytest.raises(LookupError, match="VENDOR_KEY"):
        await Remote(OpenAIEngine(url="http://127.0.0.1/v1", model="theirs", key_env="VENDOR_KEY"), "ours").start()


@pytest.mark.parametrize("status", [401, 403])
async def test_the_operators_key_problem_is_not_the_callers(status: int) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "sk-operator is wrong"}}, status=status)

    async with _remote(answer) as (url, _, _metering):
        got, body, _headers = await _post(url)
    assert got == 502
    assert b"sk-operator" not in body


async def test_a_limit_over_there_passes_with_its_advice() -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"retry-after": "7"})

    async with _remote(answer) as (url, _, _metering):
        status, _body, headers = await _post(url)
    assert (status, headers["retry-after"]) == (429, "7")


async def test_events_cut_anywhere_arrive_whole_renamed_and_without_the_usage_nobody_asked_for() -> None:
    first = (
        b'data: {"model": "theirs", "choices": [{"delta": {"content": "\\"model\\":\\"theirs\\" \xe6\xb5\xb7"}}]}\n\n'
    )
    usage = b'data: {"choices": [], "usage": %b}\n\n' % orjson.dumps(_USAGE)
    done = b"data: [DONE]\n\n"
    whole = first + usage + done
    async with _remote(_streaming(*(whole[place : place + 5] for place in range(0, len(whole), 5)))) as served:
        url, _, metering = served
        _, body, _headers = await _post(url, stream=True)
    assert body == first.replace(b'"model": "theirs"', b'"model": "ours"') + done
    assert metering.meters[0].usage.generated == 7


async def test_usage_that_was_asked_for_is_passed_on() -> None:
    usage = b'data: {"choices":[],"usage":%b}\n\n' % orjson.dumps(_USAGE)
    async with _remote(_streaming(usage)) as (url, _, _metering):
        _, body, _headers = await _post(url, stream=True, stream_options={"include_usage": True})
    assert body == usage


async def test_a_stream_broken_off_ends_with_an_error_event() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = await _streaming(b'data: {"choices":[{}]}\n\n')(request)
        assert request.transport is not None
        request.transport.abort()
        return response

    async with _remote(answer) as (url, _, _metering):
        _, body, _headers = await _post(url, stream=True)
    assert b'"replica_lost"' in body
    assert body.endswith(b"data: [DONE]\n\n")


async def test_a_remote_that_is_not_there_is_a_502() -> None:
    engine = Remote(OpenAIEngine(url="http://127.0.0.1:9/v1", model="theirs"), "ours")
    async with started(engine), serving(engine.app) as url:
        status, body, _ = await _post(url)
    assert (status, orjson.loads(body)["error"]["code"]) == (502, "replica_lost")


async def test_what_is_no_json_object_is_a_502() -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=b"garbage", content_type="application/json")

    async with _remote(answer) as (url, _, _metering):
        status, body, _headers = await _post(url)
    assert (status, orjson.loads(body)["error"]["code"]) == (502, "engine_garbage")


async def test_only_known_routes_models_and_json_go_there() -> None:
    async def answer(_request: web.Request) -> web.Response:
        raise AssertionError("nothing of this may arrive")

    cases = [
        ("GET", "/v1/files", b"", 404),
        ("GET", _PATH, b"", 405),
        ("POST", _PATH, b"{", 400),
        ("POST", _PATH, b"[]", 400),
        ("POST", _PATH, b'{"model": "theirs"}', 404),
    ]
    async with _remote(answer) as (url, _, _metering), aiohttp.ClientSession() as session:
        for method, path, body, status in cases:
            async with session.request(method, url + path, data=body) as refused:
                assert refused.status == status
                assert "error" in await refused.json()


async def test_a_redirect_is_neither_followed_nor_passed_on() -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"location": "http://127.0.0.1:9/elsewhere"})

    async with _remote(answer) as (url, _, _metering):
        status, _body, headers = await _post(url)
    assert status == 502
    assert "location" not in headers
