"""Waiting calls are bounded in number and time; beyond it the caller is told at once, and told when to come back."""

import asyncio

import aiohttp

from deployments.config import GatewayConfig
from tests.path.cluster import running, simulated, until

PAYLOAD = {"model": "sim", "prompt": "x", "max_tokens": 4000, "ignore_eos": True}
GATEWAY = GatewayConfig(passthrough=("ignore_eos",), max_waiting=2, max_wait_s=3)


async def test_beyond_the_bounds_429_at_once_and_503_after_the_wait() -> None:
    pool = simulated(max_running=1).model_copy(update={"queue": 0})
    async with running([pool], gateway=GATEWAY) as path, aiohttp.ClientSession() as session:

        async def call() -> tuple[int, str | None]:
            async with session.post(f"{path.url}/completions", json=PAYLOAD, headers=path.headers) as answer:
                await answer.read()
                return answer.status, answer.headers.get("retry-after")

        running_call = asyncio.create_task(call())
        await until(lambda: path.servers[0].report().running == 1, "the slot is taken")
        waiting = [asyncio.create_task(call()) for _ in range(2)]
        await until(lambda: path.gateway.pools["sim"].waiting == 2, "two wait")
        refused = [await call() for _ in range(10)]
        assert not any(one.done() for one in waiting), "refused at once, while others wait"
        assert {status for status, _ in refused} == {429}
        assert all(retry and int(retry) >= 1 for _, retry in refused)
        assert [(status, bool(retry)) for status, retry in await asyncio.gather(*waiting)] == [(503, True)] * 2
        running_call.cancel()
        await asyncio.gather(running_call, return_exceptions=True)


async def test_replicas_that_drain_before_the_gateway_knows_cost_a_call_nothing() -> None:
    """Four of five refuse it, more than may be lost under one call; the fifth answers."""
    async with running([simulated()], replicas=5, gateway=GATEWAY) as path, aiohttp.ClientSession() as session:
        for task in path.gateway._tasks:
            task.cancel()  # no news from the Directory
        for server in path.servers[1:]:
            server._shell.draining = True
        for _ in range(5):
            payload = {**PAYLOAD, "max_tokens": 2}
            async with session.post(f"{path.url}/completions", json=payload, headers=path.headers) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()


async def test_no_replica_at_all_is_503_and_not_ready() -> None:
    async with running([simulated()], replicas=0, gateway=GATEWAY) as path, aiohttp.ClientSession() as session:
        async with session.get(f"{path.root}/readyz") as answer:
            assert answer.status == 503
        async with session.post(f"{path.url}/completions", json=PAYLOAD, headers=path.headers) as answer:
            assert answer.status == 503
            assert (await answer.json())["error"]["code"] == "no_replica"
            assert answer.headers["retry-after"]


async def test_a_burst_beyond_all_slots_is_served_whole() -> None:
    """100 calls at once against 2 replicas of 4 slots and a queue of 2: all are answered, refusals are never seen."""
    pool = simulated(max_running=4, decode_ms=0.5).model_copy(update={"queue": 2})
    gateway = GATEWAY.model_copy(update={"max_waiting": 200, "max_wait_s": 30})
    async with running([pool], replicas=2, gateway=gateway) as path, aiohttp.ClientSession() as session:

        async def call() -> int:
            payload = {**PAYLOAD, "max_tokens": 5}
            async with session.post(f"{path.url}/completions", json=payload, headers=path.headers) as answer:
                await answer.read()
                return answer.status

        assert set(await asyncio.gather(*(call() for _ in range(100)))) == {200}
