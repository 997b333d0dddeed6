"""The engine as it is served: order, cache, aborts, continuation, state."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest

from deployments.config import SimulatedEngine
from deployments.engines.base import Adapter, Load
from deployments.engines.simulated import Simulated
from deployments.engines.simulated.tokens import encode
from tests.engines.serving import Metering, serving, until
from tests.engines.subjects import started

_LONG = {"max_tokens": 4000, "ignore_eos": True, "stream": True}


class Served:
    def __init__(self, engine: Simulated, metering: Metering, url: str, session: aiohttp.ClientSession) -> None:
        self.engine = engine
        self.metering = metering
        self._url = url
        self._session = session

    async def complete(self, prompt: object, headers: dict[str, str] | None = None, **fields: object) -> dict[str, Any]:
        body = {"model": "m", "prompt": prompt, **fields}
        async with self._session.post(f"{self._url}/v1/completions", json=body, headers=headers) as answer:
            assert answer.status == 200
            return dict(await answer.json())

    async def open(self, prompt: object = "x", **fields: object) -> aiohttp.ClientResponse:
        return await self._session.post(f"{self._url}/v1/completions", json={"model": "m", "prompt": prompt, **fields})

    async def get(self, path: str) -> bytes:
        async with self._session.get(self._url + path) as answer:
            return await answer.read()


@pytest.fixture
async def served(request: pytest.FixtureRequest) -> AsyncGenerator[Served]:
    fields: dict[str, object] = {
        "decode_ms": 1.0,
        "block_tokens": 4,
        "kv_blocks": 2048,
        **getattr(request, "param", {}),
    }
    engine = Simulated(SimulatedEngine.model_validate(fields), "m")
    metering = Metering(engine.app)
    async with started(engine), serving(metering) as url, aiohttp.ClientSession() as session:
        yield Served(engine, metering, url, session)
        await until(lambda: engine.load() == Load())


one_at_a_time = pytest.mark.parametrize("served", [{"max_running": 1}], indirect=True)


async def test_prompt_ids_and_generated_ids_continue_an_answer_exactly(served: Served) -> None:
    whole = await served.complete("The sea", max_tokens=30, seed=3, ignore_eos=True)
    ids = served.metering.meters[-1].ids[0]
    rest = await served.complete(encode("The sea") + ids[:11], max_tokens=19, seed=3, ignore_eos=True)
    assert served.metering.meters[-1].ids[0] == ids[11:]
    assert whole["choices"][0]["text"].endswith(rest["choices"][0]["text"])


async def test_a_repeated_prompt_comes_from_the_cache(served: Served) -> None:
    prompt = "a prompt of several blocks"
    first = await served.complete(prompt, max_tokens=1)
    again = await served.complete(prompt, max_tokens=1)
    cached = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in (first, again)]
    tokens = first["usage"]["prompt_tokens"]
    assert cached == [0, (tokens - 1) // 4 * 4]
    assert served.metering.meters[-1].cached == cached[1]


async def test_another_salt_finds_nothing_in_the_cache(served: Served) -> None:
    await served.complete("a prompt of several blocks", max_tokens=1, headers={"x-test-salt": "one"})
    other = await served.complete("a prompt of several blocks", max_tokens=1, headers={"x-test-salt": "two"})
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@one_at_a_time
async def test_waiting_calls_run_in_order_of_their_priority(served: Served) -> None:
    running = await served.open(**_LONG)
    await until(lambda: served.engine.load().running == 1)
    ended: list[int] = []

    async def call(priority: int) -> None:
        await served.complete("y", max_tokens=2, headers={"x-test-priority": str(priority)})
        ended.append(priority)

    tasks = []
    for waiting, priority in enumerate((3, 1, 2)):
        tasks.append(asyncio.create_task(call(priority)))
        await until(lambda expected=waiting + 1: served.engine.load().waiting == expected)  # type: ignore[misc]
    running.close()
    await asyncio.gather(*tasks)
    assert ended == [1, 2, 3]


@one_at_a_time
async def test_a_client_that_leaves_is_recorded_and_its_slot_is_free_at_once(served: Served) -> None:
    running, waiting = await served.open(**_LONG), asyncio.create_task(served.open(**_LONG))
    await until(lambda: served.engine.load().waiting == 1)
    waiting.cancel()
    await asyncio.wait((waiting,))
    await until(lambda: served.engine.load().waiting == 0)
    await running.content.readany()
    running.close()
    await until(lambda: served.engine.load().running == 0)
    first, second = served.engine.aborts
    assert (first.generated, second.generated > 0) == (0, True)
    assert all(0 <= abort.freed - abort.noticed < 0.05 for abort in served.engine.aborts)
    assert served.metering.meters[0].usage.generated == second.generated


async def test_a_cancelled_task_frees_its_slot_as_a_leaving_client_does(served: Served) -> None:
    """A shell cancels the app's task itself when it drains."""
    body = b'{"model": "m", "prompt": "x", "max_tokens": 4000, "ignore_eos": true}'
    messages: asyncio.Queue[Any] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": body})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    task = asyncio.ensure_future(served.engine.app(scope, messages.get, send))
    await until(lambda: served.engine.load().running == 1)
    task.cancel()
    await asyncio.wait((task,))
    assert served.engine.load() == Load()
    assert (len(served.engine.aborts), sent) == (1, [])


@pytest.mark.parametrize("served", [{"adapter_slots": 1, "adapter_load_ms": 20}], indirect=True)
async def test_more_adapters_than_slots_take_turns(served: Served) -> None:
    for version in ("a@1", "b@1"):
        await served.engine.load_adapter(Adapter(version, "/nowhere"))
    calls = [served.complete("x", model=version, max_tokens=3) for version in ("a@1", "b@1", "a@1")]
    answers = await asyncio.gather(*calls)
    assert [answer["model"] for answer in answers] == ["a@1", "b@1", "a@1"]
    assert b'"b@1"' in await served.get("/v1/models")


async def test_stop_ends_running_calls_with_an_error(served: Served) -> None:
    call = asyncio.create_task(served.open(max_tokens=4000, ignore_eos=True))
    await until(lambda: served.engine.load().running == 1)
    await served.engine.stop()
    assert (await call).status == 502


async def test_state_and_metrics_count_what_happened(served: Served) -> None:
    await served.complete(["one", "two"], max_tokens=3, n=2, ignore_eos=True)
    state = await served.get("/simulated/state")
    assert b'"calls":1' in state
    assert b'"generated":12' in state
    assert b"simulated:generation_tokens_total 12.0" in served.engine.metrics()
    assert served.metering.meters[-1].ids.keys() == {0, 1, 2, 3}


def test_a_cache_smaller_than_one_call_is_refused() -> None:
    with pytest.raises(ValueError, match="max_model_len"):
        Simulated(SimulatedEngine(kv_blocks=2), "m")
