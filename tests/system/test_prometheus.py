"""A real Prometheus finds every process by /targets and scrapes it with the one token."""

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path as Folder
from typing import Any

import aiohttp
import pytest

from deployments.scrape import scrape_token
from tests.cluster.running import free_port
from tests.path.cluster import SECRET, running, simulated

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]
PROMETHEUS = shutil.which("prometheus")


@asynccontextmanager
async def prometheus(folder: Folder, front: str) -> AsyncGenerator[str, None]:
    """Configured as an operator would: discovery at the front, the token for it and for every target."""
    assert PROMETHEUS, "Debian's prometheus is missing: make test-system installs it"
    token = {"credentials": scrape_token(SECRET)}
    job = {
        "job_name": "themis",
        "authorization": token,
        "http_sd_configs": [{"url": f"{front}/targets", "refresh_interval": "1s", "authorization": token}],
    }
    config = folder / "prometheus.yml"
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        PROMETHEUS,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        await process.wait()


async def _query(session: aiohttp.ClientSession, url: str, expression: str) -> list[Any]:
    try:
        async with session.get(f"{url}/api/v1/query", params={"query": expression}) as answer:
            return list((await answer.json())["data"]["result"]) if answer.status == 200 else []
    except aiohttp.ClientConnectionError:  # it is still starting
        return []


async def _eventually(session: aiohttp.ClientSession, url: str, expression: str, results: int) -> list[Any]:
    async with asyncio.timeout(60):
        while len(found := await _query(session, url, expression)) < results:  # noqa: ASYNC110 - Prometheus tells nobody
            await asyncio.sleep(0.2)
    return found


async def test_all_are_found_and_up_and_a_call_is_counted(tmp_path: Folder) -> None:
    payload = {"model": "sim", "prompt": "x", "max_tokens": 3}
    async with running([simulated()], replicas=2) as path, aiohttp.ClientSession() as session:
        await path.directory.listen("127.0.0.1")
        async with prometheus(tmp_path, path.root) as url:
            async with session.post(f"{path.url}/completions", json=payload, headers=path.headers) as answer:
                assert answer.status == 200
            up = await _eventually(session, url, "up == 1", 4)
            assert sorted(one["metric"]["role"] for one in up) == ["directory", "gateway", "replica", "replica"]
            (calls,) = await _eventually(session, url, 'themis_calls_total{ending="finished"}', 1)
            assert calls["value"][1] == "1"
        await path.directory.close()
