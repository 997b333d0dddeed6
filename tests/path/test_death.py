"""A replica killed with `kill -9`: before the first byte its calls are answered elsewhere, later they end honestly."""

import asyncio
import json
import os
import signal

import aiohttp
import pytest

from deployments.config import GatewayConfig
from tests.path.cluster import Path, running, simulated, until

GATEWAY = GatewayConfig(passthrough=("ignore_eos",))


def _kill(path: Path, replica: str) -> None:
    os.kill(path.processes[int(replica.rpartition("-")[2])].pid, signal.SIGKILL)


def _holder(path: Path) -> str:
    """The replica that has the one call."""
    (seat,) = [seat for seat in path.gateway.pools["sim"]._seats.values() if seat.in_flight]
    return seat.replica.id


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_before_the_first_byte_the_caller_sees_nothing_of_it(stream: bool) -> None:
    """Prefill takes a second; the replica dies in it; the other one answers."""
    async with (
        running([simulated(prefill_ms_per_token=50.0)], replicas=2, gateway=GATEWAY, in_processes=True) as path,
        aiohttp.ClientSession() as session,
    ):
        payload = {"model": "sim", "prompt": "a slow prompt of some words", "max_tokens": 3, "stream": stream}
        call = asyncio.create_task(_call(session, path, payload))
        await until(lambda: path.gateway.pools["sim"].active == 1, "a replica has the call")
        _kill(path, _holder(path))
        status, text = await call
        assert status == 200, text
        assert "error" not in text
        assert text.endswith("data: [DONE]\n\n") if stream else json.loads(text)["choices"][0]["text"]


async def test_in_the_middle_of_a_stream_an_error_event_and_a_clean_end() -> None:
    async with (
        running([simulated()], replicas=2, gateway=GATEWAY, in_processes=True) as path,
        aiohttp.ClientSession() as session,
    ):
        payload = {"model": "sim", "prompt": "x", "max_tokens": 5000, "ignore_eos": True, "stream": True}
        async with session.post(f"{path.url}/completions", json=payload, headers=path.headers) as answer:
            await answer.content.readany()
            _kill(path, _holder(path))
            rest = (await answer.content.read()).decode()
        events = [event for event in rest.split("\n\n") if event]
        assert events[-1] == "data: [DONE]"
        assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "replica_lost"


async def _call(session: aiohttp.ClientSession, path: Path, payload: dict[str, object]) -> tuple[int, str]:
    async with session.post(f"{path.url}/completions", json=payload, headers=path.headers) as answer:
        return answer.status, await answer.text()
