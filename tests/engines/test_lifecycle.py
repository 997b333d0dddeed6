"""Starting and stopping the engines that live in this process."""

import asyncio
from collections.abc import Callable

import aiohttp
import psutil
import pytest

from deployments.config import OpenAIEngine
from deployments.engines.base import Engine, EngineDied
from deployments.engines.remote import Remote
from deployments.engines.simulated import Simulated
from tests.engines.serving import serving, until
from tests.engines.subjects import SIMULATED


def _simulated(_upstream: str) -> Engine:
    return Simulated(SIMULATED, "m")


def _remote(upstream: str) -> Engine:
    return Remote(OpenAIEngine(url=f"{upstream}/v1", model="behind"), "m")


@pytest.mark.parametrize("make", [_simulated, _remote])
async def test_stop_leaves_no_task_and_no_socket_and_may_be_repeated(make: Callable[[str], Engine]) -> None:
    behind = Simulated(SIMULATED, "behind")
    await behind.start()
    async with serving(behind.app) as upstream:
        before, tasks = len(psutil.Process().net_connections()), len(asyncio.all_tasks())
        engine = make(upstream)
        await engine.stop()
        await engine.start()
        await engine.start()
        async with serving(engine.app) as url, aiohttp.ClientSession() as session:
            body = {"model": "m", "prompt": "x", "max_tokens": 2}
            assert (await session.post(f"{url}/v1/completions", json=body)).status == 200
            await engine.stop()
            await engine.stop()
            with pytest.raises(EngineDied):
                await engine.check_health()
            assert (await session.post(f"{url}/v1/completions", json=body)).status >= 500
        await until(lambda: len(asyncio.all_tasks()) == tasks)
        await until(lambda: len(psutil.Process().net_connections()) == before)
    await behind.stop()
