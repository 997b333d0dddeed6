"""What operators read: health, readiness, metrics of every process, log lines; each behind the right credential."""

import json
from collections.abc import AsyncGenerator

import aiohttp
import pytest

from deployments.scrape import scrape_token
from tests.path.cluster import SECRET, Path, running, simulated

PAYLOAD = {"model": "sim", "messages": [{"role": "user", "content": "a secret prompt"}], "max_tokens": 3}


@pytest.fixture
async def path() -> AsyncGenerator[Path, None]:
    async with running([simulated()]) as path:
        await path.directory.listen("127.0.0.1")
        yield path
        await path.directory.close()


async def test_every_target_answers_prometheus_with_one_token(path: Path) -> None:
    prometheus = {"authorization": f"Bearer {scrape_token(SECRET)}"}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{path.url}/chat/completions", json=PAYLOAD, headers=path.headers) as answer:
            assert answer.status == 200
        await path.gateway.attendance._once()
        async with session.get(f"{path.root}/targets", headers=prometheus) as answer:
            groups = await answer.json()
        assert sorted(group["labels"]["role"] for group in groups) == ["directory", "gateway", "replica"]
        wanted = {
            "gateway": ["themis_calls_total", "themis_stage_seconds_bucket", "themis_snapshot_age_seconds"],
            "replica": ["themis_replica_tokens_total", "simulated:num_requests_running"],
            "directory": ["themis_directory_replicas 1.0"],
        }
        for group in groups:
            url = f"http://{group['targets'][0]}/metrics"
            async with session.get(url, headers=prometheus) as answer:
                text = await answer.text()
                assert answer.status == 200, group
            for name in wanted[group["labels"]["role"]]:
                assert name in text, group
            async with session.get(url) as answer:
                assert answer.status == 401, group


async def test_the_front_shows_its_own_metrics_to_a_key_or_the_scrape_token(path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        for headers in (path.headers, {"authorization": f"Bearer {scrape_token(SECRET)}"}):
            async with session.get(f"{path.root}/metrics", headers=headers) as answer:
                assert answer.status == 200
                assert "themis_active_calls 0.0" in await answer.text()


async def test_health_and_readiness_are_open_and_say_nothing_else(path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        for page in ("healthz", "readyz"):
            async with session.get(f"{path.root}/{page}") as answer:
                assert (answer.status, await answer.text()) == (200, "ok")


async def test_a_call_is_one_log_line_with_its_stages_and_without_its_prompt(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="themis.calls")
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{path.url}/chat/completions", json=PAYLOAD, headers=path.headers) as answer,
    ):
        call_id = answer.headers["x-themis-call-id"]
        await answer.read()
    await path.at_rest()
    (message,) = [record.getMessage() for record in caplog.records if record.name == "themis.calls"]
    line = json.loads(message)
    assert line["call"] == call_id
    assert (line["tenant"], line["key"], line["model"], line["ending"]) == ("acme", "test", "sim", "finished")
    assert line["generated_tokens"] == 3
    assert {"identity_s", "wait_s", "connect_s", "first_token_s", "stream_s"} <= line.keys()
    assert "secret" not in message
