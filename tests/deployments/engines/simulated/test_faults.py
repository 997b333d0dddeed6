"""Scripted faults: when they strike, and what a client sees of them."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from deployments.config import Fault, SimulatedEngine
from deployments.engines.base import Load
from deployments.engines.simulated import Simulated
from deployments.engines.simulated.faults import Script
from tests.engines.serving import serving, until
from tests.engines.subjects import started


@asynccontextmanager
async def _call(fault: dict[str, object], *, stream: bool) -> AsyncGenerator[aiohttp.ClientResponse]:
    """One call that the fault strikes; the engine is at rest afterwards."""
    engine = Simulated(SimulatedEngine(decode_ms=1.0), "m")
    body = {"model": "m", "prompt": "x", "max_tokens": 9, "ignore_eos": True, "stream": stream}
    async with started(engine), serving(engine.app) as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/simulated/faults", json=[fault]) as scripted:
            assert scripted.status == 200
        try:
            async with session.post(f"{url}/v1/completions", json=body) as answer:
                yield answer
        finally:
            await until(lambda: engine.load() == Load())


async def _read(answer: aiohttp.ClientResponse, into: bytearray) -> None:
    async for data in answer.content.iter_any():
        into += data


def _tokens(body: bytes | bytearray) -> int:
    return body.count(b'"text":"')


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [{"kind": "disconnect"}, {"kind": "disconnect", "at_token": 0, "match": "x"}])
async def test_a_connection_cut_before_the_first_byte_gives_no_answer(fault: dict[str, object], stream: bool) -> None:
    with pytest.raises(aiohttp.ServerDisconnectedError):
        async with _call(fault, stream=stream):
            pass


async def test_a_connection_cut_at_a_token_gives_the_tokens_before_it() -> None:
    body = bytearray()
    async with _call({"kind": "disconnect", "at_token": 3}, stream=True) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await _read(answer, body)
    assert _tokens(body) == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_garbage_before_the_first_byte_is_a_200_that_is_no_answer(stream: bool) -> None:
    async with _call({"kind": "garbage"}, stream=stream) as answer:
        assert answer.status == 200
        body = await answer.read()
    assert b"data:" not in body
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(body)


async def test_garbage_at_a_token_follows_the_tokens_before_it() -> None:
    async with _call({"kind": "garbage", "at_token": 2}, stream=True) as answer:
        body = await answer.read()
    assert _tokens(body) == 2
    assert b"\x00\xff" in body.rpartition(b"\n\n")[2]
    assert b"[DONE]" not in body


@pytest.mark.parametrize(("stream", "at_token"), [(False, 0), (False, 4), (True, 0)])
async def test_an_error_before_the_first_byte_is_a_500(stream: bool, at_token: int) -> None:
    async with _call({"kind": "error", "at_token": at_token}, stream=stream) as answer:
        assert answer.status == 500
        assert (await answer.json())["error"]["message"]


async def test_an_error_at_a_token_is_an_event() -> None:
    async with _call({"kind": "error", "at_token": 4}, stream=True) as answer:
        events = (await answer.read()).strip().split(b"\n\n")
    assert _tokens(b"".join(events)) == 4
    assert "error" in orjson.loads(events[-2].removeprefix(b"data: "))
    assert events[-1] == b"data: [DONE]"


async def test_a_hung_call_keeps_its_slot_and_says_nothing_more() -> None:
    engine = Simulated(SimulatedEngine(decode_ms=1.0, faults=(Fault(kind="hang", at_token=2, times=1),)), "m")
    body: dict[str, Any] = {"model": "m", "prompt": "x", "max_tokens": 9, "ignore_eos": True, "stream": True}
    async with started(engine), serving(engine.app) as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/v1/completions", json=body) as hung:
            seen = b""
            while _tokens(seen) < 2:
                seen += await hung.content.readany()
            # Another call of nine steps ends meanwhile; the hung one has not moved.
            async with session.post(f"{url}/v1/completions", json=body) as other:
                assert _tokens(await other.read()) == 9
            assert engine.load().running == 1
            assert _tokens(seen) == 2
        await until(lambda: engine.load() == Load())
    assert engine.aborts[-1].generated == 2


async def test_a_slow_call_takes_its_factor_more_steps() -> None:
    engine = Simulated(SimulatedEngine(decode_ms=1.0, faults=(Fault(kind="slow", factor=5, match="slow"),)), "m")
    async with started(engine), serving(engine.app) as url, aiohttp.ClientSession() as session:

        async def run(prompt: str, tokens: int) -> float:
            body = {"model": "m", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
            async with session.post(f"{url}/v1/completions", json=body) as answer:
                await answer.read()
            return asyncio.get_running_loop().time()

        slow, quick = await asyncio.gather(run("slow", 10), run("y", 30))
    assert slow > quick


async def test_a_crash_ends_the_process_after_its_tokens() -> None:
    config = SimulatedEngine(decode_ms=1.0, faults=(Fault(kind="crash", at_token=3),)).model_dump_json()
    command = ["-m", "deployments.engines.simulated", "--model", "m", "--config", config]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = (await process.stdout.readline()).decode().split()[1]
        body = {"model": "m", "prompt": "x", "max_tokens": 9, "ignore_eos": True, "stream": True}
        seen = bytearray()
        async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/completions", json=body) as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await _read(answer, seen)
        assert _tokens(seen) == 3
        assert await process.wait() == 1
        assert await process.stderr.read() == b""
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def test_a_fault_strikes_each_nth_match_and_no_more_often_than_told() -> None:
    fault = Fault(kind="hang", match="me", every=2, times=2)
    script = Script([fault])
    struck = [script.pick(prompt) for prompt in ("me", "you", "me", "me", "me", "me", "me")]
    assert struck == [None, None, fault, None, fault, None, None]
