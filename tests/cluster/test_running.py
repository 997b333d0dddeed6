"""Themis as it runs: Ray, Serve, HAProxy or Serve's own proxy, gateways and simulated engines, each in its process.

Tests of one cluster stand in one order: the last one of the first cluster stops it.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI, OpenAI

from policies.identity import digest, new_key
from tests.cluster.calls import Answer, call, running_stream, steady_load
from tests.cluster.running import (
    THEMIS,
    Cluster,
    answers,
    cluster,
    document,
    eventually,
    free_port,
    plain_ray,
    pool,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

GATEWAY = "ray::ServeReplica:themis:gateway"
REPLICA = "ray::ServeReplica:themis:pool-sim"
POOLS = [pool(replicas=2), pool("brief", drain_s=1)]
# Serve reads these before our app does.
NO_CONTROL: dict[str, str] = {}
CONTROLS = [
    NO_CONTROL,
    {"x-request-disconnect-disabled": "?1"},
    {"x-request-disconnect-disabled": "?1", "x-request-timeout-seconds": "0"},
    {"serve_multiplexed_model_id": "another", "x-session-id": "mine"},
]


@pytest.fixture(scope="module")
def themis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("running"), POOLS) as themis:
        yield themis


@pytest.fixture
async def session() -> AsyncGenerator[aiohttp.ClientSession, None]:
    async with aiohttp.ClientSession() as session:
        yield session


async def until(holds: Callable[[], bool], limit_s: float = 10) -> None:
    """Waits for what the cluster shows; calls go on meanwhile."""
    assert await asyncio.to_thread(eventually, holds, limit_s), f"not within {limit_s} s"


def whole(answers: list[Answer]) -> bool:
    return all(answer.status == 200 and answer.whole and answer.error is None for answer in answers)


async def test_the_official_client_works(themis: Cluster) -> None:
    question = {"model": "sim", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    async with AsyncOpenAI(base_url=f"{themis.url}/v1", api_key=themis.key, max_retries=0) as client:
        assert [card.id async for card in client.models.list()] == ["sim", "brief"]
        answer: Any = await client.chat.completions.create(**question)  # type: ignore[call-overload]
        stream: Any = await client.chat.completions.create(**question, stream=True)  # type: ignore[call-overload]
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == answer.choices[0].message.content != ""


async def test_a_stream_is_framed_as_events_and_labelled_once(themis: Cluster, session: aiohttp.ClientSession) -> None:
    payload = {"model": "sim", "prompt": "日本語 👍", "max_tokens": 20, "stream": True}
    headers = {**themis.headers, "x-request-id": "mine"}
    async with session.post(f"{themis.url}/v1/completions", json=payload, headers=headers) as answer:
        body = await answer.read()
        assert answer.headers.getall("x-request-id") == ["mine"]
        assert len(answer.headers.getall("x-themis-call-id")) == 1
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, last = body.decode().removesuffix("\n\n").split("\n\n")
    assert last == "data: [DONE]"
    assert len(events) == 20
    assert len({json.loads(event.removeprefix("data: "))["id"] for event in events}) == 1


@pytest.mark.parametrize("controls", CONTROLS, ids=lambda controls: ",".join(controls) or "none")
async def test_a_client_that_leaves_frees_its_slot_whatever_it_told_serve(
    themis: Cluster, session: aiohttp.ClientSession, controls: dict[str, str]
) -> None:
    async with running_stream(session, themis, 5000, headers=controls):
        await until(lambda: themis.engine_calls() == 1)
    await until(lambda: themis.engine_calls() == 0, 2)
    await until(lambda: themis.active() == 0, 2)


async def test_a_client_that_bounds_its_call_by_serves_header_ends_only_its_own(
    themis: Cluster, session: aiohttp.ClientSession
) -> None:
    """Serve cuts it off, without an event of ours; the slot is freed as ever."""
    answer = await call(session, themis, 5000, stream=True, headers={"x-request-timeout-seconds": "0.5"})
    assert not answer.whole
    await until(lambda: themis.engine_calls() == themis.active() == 0, 2)


def test_status_shows_what_runs(themis: Cluster) -> None:
    said = subprocess.run(
        [*THEMIS, "status", "--json"], env=themis.launcher.environment, capture_output=True, text=True, check=True
    )
    assert {name: shown["ready"] for name, shown in json.loads(said.stdout)["pools"].items()} == {"brief": 1, "sim": 2}


def test_a_gateway_stays_light(themis: Cluster) -> None:
    """It never imports an engine."""
    (gateway,) = themis.titled(GATEWAY)
    assert gateway.memory_info().rss < 250e6
    assert not [each.path for each in gateway.memory_maps() if "torch" in each.path or "vllm" in each.path]


async def test_a_replica_killed_under_load_costs_no_call_that_had_no_byte_yet(
    themis: Cluster, session: aiohttp.ClientSession
) -> None:
    """Streams in the middle end with an error event, in order; Ray brings the replica back."""
    before = set(themis.ready())
    async with steady_load(session, themis) as told:
        await until(lambda: themis.engine_calls() >= 4)
        themis.titled(REPLICA)[0].kill()
        await until(lambda: before - set(themis.ready()) != set())
        await until(lambda: len(themis.ready()) == 2, 30)
    cut = [answer for answer in told if answer.error]
    assert whole([answer for answer in told if not answer.error])
    assert {answer.error for answer in cut} <= {"replica_lost"}
    assert all(answer.whole and len(answer.events) > 1 for answer in cut)
    assert len(cut) <= 3, "streams that ran"
    assert len(told) > 20
    await until(lambda: themis.engine_calls() == themis.active() == 0)
    assert len(themis.titled(REPLICA)) == 2


async def test_calls_go_on_while_the_directory_is_gone_and_it_is_rebuilt(
    themis: Cluster, session: aiohttp.ClientSession
) -> None:
    async with steady_load(session, themis) as told:
        await until(lambda: bool(told))
        themis.ask("kill_directory")
        await until(lambda: len(themis.ready()) == 2, 5)
    assert whole(told)


async def test_a_rolling_update_lets_running_streams_finish_and_serves_new_calls_throughout(
    themis: Cluster, session: aiohttp.ClientSession
) -> None:
    """Replicas and gateways are replaced. Only a stream longer than its pool's drain is ended, with an error event."""
    beginning = await call(session, themis, 20, stream=False)
    old, old_gateways = set(themis.ready()), {gateway.pid for gateway in themis.titled(GATEWAY)}
    async with AsyncExitStack() as stack:
        long = await stack.enter_async_context(running_stream(session, themis, 700))
        (holder,) = [replica for replica, calls in themis.engines().items() if calls]
        too_long = await stack.enter_async_context(running_stream(session, themis, 700, model="brief"))
        told = await stack.enter_async_context(steady_load(session, themis))
        themis.deploy([pool(replicas=2, seed=1), pool("brief", drain_s=1, seed=1)])
        await until(lambda: themis.state_of(holder) == "draining", 30)
        assert not long.done()
        assert (await too_long).error == "replica_lost"
        # Gateways know: it has nothing but its old stream.
        assert {replica["running"] for replica in themis.replicas() if replica["id"] == holder} == {1}
        finished = await long
    assert finished.whole
    assert finished.error is None
    assert len(finished.events) == 700
    assert finished.text.startswith(beginning.text)
    assert whole(told)
    await until(lambda: not old & {replica["id"] for replica in themis.replicas()}, 3)
    await until(lambda: not old_gateways & {gateway.pid for gateway in themis.titled(GATEWAY)}, 5)
    assert (await call(session, themis, 20, stream=False)).text != beginning.text
    assert len(themis.titled(REPLICA)) == 2


async def test_a_scale_down_lets_running_streams_finish_and_leaves_the_others_alone(
    themis: Cluster, session: aiohttp.ClientSession
) -> None:
    old = set(themis.ready())
    async with (
        running_stream(session, themis, 300) as one,
        running_stream(session, themis, 300) as two,
        running_stream(session, themis, 300) as three,
        running_stream(session, themis, 300) as four,
    ):
        themis.deploy(deployments=[{"name": "pool-sim", "num_replicas": 1}])
        await until(lambda: len(themis.ready()) == 1)
        finished = [await stream for stream in (one, two, three, four)]
    assert whole(finished)
    assert {len(answer.events) for answer in finished} == {300}
    await until(lambda: len(themis.titled(REPLICA)) == 1)
    assert set(themis.ready()) < old


async def test_ctrl_c_lets_a_running_stream_finish_and_leaves_nothing(
    themis: Cluster, session: aiohttp.ClientSession
) -> None:
    async with running_stream(session, themis, 200) as stream:
        themis.launcher.ctrl_c()
        finished = await stream
        assert finished.whole
        assert len(finished.events) == 200
    assert await asyncio.to_thread(themis.launcher.process.wait, 16) == 0
    assert themis.launcher.ours() == []


async def test_serves_own_proxy_does_the_same(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    """Chat, streams, leaving, a killed replica; and a second Ctrl-C ends all at once."""
    with cluster(tmp_path, [pool(replicas=2)], "--plain-proxy") as themis:
        assert not [each for each in themis.launcher.ours() if each.name() == "haproxy"]
        await test_a_stream_is_framed_as_events_and_labelled_once(themis, session)
        for controls in CONTROLS:
            await test_a_client_that_leaves_frees_its_slot_whatever_it_told_serve(themis, session, controls)
        await test_a_replica_killed_under_load_costs_no_call_that_had_no_byte_yet(themis, session)
        async with running_stream(session, themis, 5000) as stream:
            themis.launcher.ctrl_c()
            themis.launcher.until("stopping: ")
            themis.launcher.ctrl_c()
            assert await asyncio.to_thread(themis.launcher.process.wait, 16) == 0
            assert not (await stream).whole
        assert "cut" in themis.launcher.rest()
        assert themis.launcher.ours() == []


def test_nothing_outlives_a_killed_raylet(tmp_path: Path) -> None:
    with cluster(tmp_path, [pool()]) as themis:
        (raylet,) = [each for each in themis.launcher.ours() if each.name() == "raylet"]
        raylet.kill()
        assert eventually(lambda: not themis.launcher.ours(), 10), themis.launcher.ours()
        assert themis.launcher.process.wait(timeout=15) == 1


def test_a_ray_cluster_without_our_flags_takes_the_config_and_its_gateway_names_them() -> None:
    """`serve deploy` is all it takes. The folder's path is short, as those of Ray's sockets in it must be."""
    key, port = new_key(), free_port()
    keys = [{"name": "test", "sha256": digest(key)}]
    with tempfile.TemporaryDirectory(prefix="themis-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        path = folder / "config.yaml"
        path.write_text(json.dumps(document(port, [pool()], args={"identity": {"keys": keys}})))
        with plain_ray(folder) as dashboard:
            serve = Path(sys.executable).parent / "serve"
            subprocess.run([serve, "deploy", path, "-a", dashboard], capture_output=True, check=True)
            assert eventually(lambda: answers(f"http://127.0.0.1:{port}/readyz"), 40)
            with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key) as client:
                answer = client.completions.create(model="sim", prompt="hi", max_tokens=3)
            assert answer.usage
            assert answer.usage.completion_tokens == 3
            logs = "".join(log.read_text() for log in folder.glob("session_latest/logs/worker-*.err"))
    assert "RAY_SERVE_ENABLE_HA_PROXY=1 is not set" in logs
    assert "RAY_SERVE_THROUGHPUT_OPTIMIZED=1 is not set" in logs
