"""Bad input gets a clear error in OpenAI's envelope, before any engine sees it, and nothing is lost."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from deployments.config import GatewayConfig
from tests.path.cluster import Path, running, simulated

GOOD: dict[str, Any] = {"model": "sim", "messages": [{"role": "user", "content": "hi"}]}
CYCLE = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}


def schema(body: Any) -> dict[str, Any]:
    return {**GOOD, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": body}}}


TABLE: list[tuple[str, Any, int, str | None]] = [
    ("malformed JSON", b'{"model": ', 400, None),
    ("no object", b"[]", 400, None),
    ("wrong type", {**GOOD, "stream": "yes"}, 400, "stream"),
    ("empty messages", {**GOOD, "messages": []}, 400, "messages"),
    ("no messages", {"model": "sim"}, 400, "messages"),
    ("unknown model", {**GOOD, "model": "nobody"}, 404, "model"),
    ("unknown adapter", {**GOOD, "model": "sim@1234"}, 404, "model"),
    ("an owned field", {**GOOD, "priority": -5}, 400, "priority"),
    ("another owned field", {**GOOD, "cache_salt": "x"}, 400, "cache_salt"),
    ("an unknown field", {**GOOD, "frobnicate": 1}, 400, "frobnicate"),
    ("too many choices", {**GOOD, "n": 100}, 400, "n"),
    ("more tokens than the model takes", {**GOOD, "max_tokens": 9000}, 400, "max_tokens"),
    ("a cyclic schema", schema(CYCLE), 400, "response_format.json_schema.schema"),
    ("a pathological pattern", schema({"type": "string", "pattern": "(a{1,999}){1,999}"}), 400, None),
    ("a deep schema", schema(json.loads('{"items":' * 150 + "{}" + "}" * 150)), 400, None),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def path() -> AsyncGenerator[Path, None]:
    async with running([simulated()], gateway=GatewayConfig(max_body_mib=0.25)) as path:
        yield path


@pytest.fixture
async def session() -> AsyncGenerator[aiohttp.ClientSession, None]:
    async with aiohttp.ClientSession() as session:
        yield session


def _error(text: str) -> dict[str, Any]:
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return dict(error)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("payload", "status", "param"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
async def test_bad_bodies(path: Path, payload: Any, status: int, param: str | None) -> None:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    seen = path.servers[0]._engine.load()
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{path.url}/chat/completions", data=raw, headers=path.headers) as answer,
    ):
        assert answer.status == status, await answer.text()
        error = _error(await answer.text())
    if param:
        assert error["param"] == param
    assert path.servers[0]._engine.load() == seen


@pytest.mark.asyncio(loop_scope="module")
async def test_a_prompt_longer_than_the_model_takes_is_400_with_both_numbers(path: Path) -> None:
    payload = {"model": "sim", "prompt": [1] * 9000}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{path.url}/completions", json=payload, headers=path.headers) as answer,
    ):
        assert answer.status == 400
        message = _error(await answer.text())["message"]
    assert "9000" in message
    assert "8192" in message


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic eA=="}])
async def test_without_a_good_key_401_whatever_the_body(path: Path, headers: dict[str, str]) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{path.url}/chat/completions", data=b"{", headers=headers) as answer:
            assert answer.status == 401
            assert _error(await answer.text())["code"] == "invalid_api_key"
        for url in (f"{path.url}/models", f"{path.root}/metrics", f"{path.root}/targets"):
            async with session.get(url, headers=headers) as answer:
                assert answer.status == 401, url


@pytest.mark.asyncio(loop_scope="module")
async def test_unknown_paths_and_wrong_methods(path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{path.url}/nothing", headers=path.headers) as answer:
            assert (answer.status, _error(await answer.text())["code"]) == (404, "unknown_url")
        async with session.get(f"{path.url}/chat/completions", headers=path.headers) as answer:
            assert (answer.status, _error(await answer.text())["code"]) == (405, "method_not_allowed")
        async with session.delete(f"{path.url}/models", headers=path.headers) as answer:
            assert answer.status == 405


@pytest.mark.asyncio(loop_scope="module")
async def test_a_body_over_the_limit_is_refused_before_it_is_read_whole(path: Path) -> None:
    """Announced: at its head. Unannounced (chunked): as soon as it is too long, while the client still sends."""
    host, port = path.root.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {path.key}\r\n".encode()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head + b"content-length: 999999999\r\n\r\n{")
    assert (await reader.readline()).split()[1] == b"413"
    writer.close()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head + b"transfer-encoding: chunked\r\n\r\n")
    for _ in range(5):
        writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        await writer.drain()
    assert (await reader.readline()).split()[1] == b"413"  # and the last chunk never came
    writer.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("asked", ["0", "soon", "-1"])
async def test_a_bad_deadline_is_400(path: Path, asked: str) -> None:
    headers = {**path.headers, "x-request-deadline-ms": asked}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{path.url}/chat/completions", json=GOOD, headers=headers) as answer,
    ):
        assert answer.status == 400
        assert _error(await answer.text())["param"] == "x-request-deadline-ms"


async def test_owned_fields_are_overwritten_where_so_configured() -> None:
    async with (
        running([simulated()], gateway=GatewayConfig(owned_fields="overwrite")) as path,
        aiohttp.ClientSession() as session,
    ):
        payload = {**GOOD, "priority": -5, "cache_salt": "x", "max_tokens": 2}
        async with session.post(f"{path.url}/chat/completions", json=payload, headers=path.headers) as answer:
            assert answer.status == 200, await answer.text()


async def test_the_engine_port_demands_the_secret_on_every_path() -> None:
    async with running([simulated()]) as path, aiohttp.ClientSession() as session:
        address = path.servers[0].address
        for url in ("/metrics", "/v1/models", "/health", "/simulated/state", "/v1/nothing"):
            async with session.get(address + url) as answer:
                assert answer.status == 401, url
        async with session.post(f"{address}/v1/chat/completions", json=GOOD, headers=path.headers) as answer:
            assert answer.status == 401
