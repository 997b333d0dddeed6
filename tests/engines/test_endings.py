"""How calls end badly, and that they leave nothing: bad input, clients that leave, adapters that go."""

import asyncio
import re
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from deployments.engines.base import Adapter
from tests.engines.serving import until
from tests.engines.subjects import MAX_LEN, Subject

pytestmark = pytest.mark.asyncio(loop_scope="session")

ASK: list[Any] = [{"role": "user", "content": "Tell me about the sea, please."}]


async def _status_and_error(subject: Subject, path: str, data: bytes) -> tuple[int, dict[str, Any]]:
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession() as session, session.post(subject.url + path, data=data, headers=headers) as got:
        return got.status, (await got.json())["error"]


async def test_an_unknown_model_is_not_found(subject: Subject, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        await client.chat.completions.create(model="no-such-model", messages=ASK)
    assert "no-such-model" in str(raised.value)


async def test_a_prompt_too_long_is_refused_with_both_numbers(subject: Subject, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await client.completions.create(model=subject.model, prompt=[65] * (MAX_LEN + 1), max_tokens=1)
    numbers = {int(number) for number in re.findall(r"\d+", str(raised.value))}
    assert MAX_LEN in numbers
    assert numbers & {MAX_LEN + 1, MAX_LEN + 2}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_malformed_json_is_refused(subject: Subject, path: str) -> None:
    status, error = await _status_and_error(subject, path, b'{"model": ')
    assert status == 400
    assert error["message"]


async def test_a_wrong_type_is_refused(subject: Subject, client: AsyncOpenAI) -> None:
    wrong: Any = "many"
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        await client.chat.completions.create(model=subject.model, messages=ASK, max_tokens=wrong)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_slot(subject: Subject, path: str, stream: bool) -> None:
    body = {"model": subject.model, "max_tokens": 1900, "ignore_eos": True, "stream": stream}
    body |= {"messages": ASK} if "chat" in path else {"prompt": "The sea is"}
    async with aiohttp.ClientSession() as session:
        call = asyncio.create_task(session.post(subject.url + path, json=body))
        if stream:
            await (await call).content.readany()
        await until(lambda: subject.behind.load().running == 1)
        if call.done():
            call.result().close()
        call.cancel()
        await asyncio.wait((call,))
    await until(subject.at_rest, deadline_s=5)


async def test_an_adapter_is_a_model_until_it_is_unloaded(subject: Subject, client: AsyncOpenAI) -> None:
    """Where an engine takes no adapters, it says so."""
    if subject.adapter is None:
        with pytest.raises(ValueError, match="cannot be loaded"):
            await subject.engine.load_adapter(Adapter("pirate@0", "/nowhere"))
        return
    adapter = subject.adapter()
    fields: dict[str, Any] = {"messages": ASK, "max_tokens": 24, "temperature": 0}
    base = await client.chat.completions.create(model=subject.model, **fields)
    await subject.engine.load_adapter(adapter)
    adapted = await client.chat.completions.create(model=adapter.version, **fields)
    assert adapted.model == adapter.version
    assert adapted.choices[0].message.content != base.choices[0].message.content
    await subject.engine.unload_adapter(adapter.version)
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model=adapter.version, **fields)


async def test_a_running_engine_is_healthy_and_shows_metrics(subject: Subject) -> None:
    await subject.engine.check_health()
    assert b"num_requests_running" in subject.engine.metrics()
