"""Every call ends once: the engine's call is aborted, the slot freed, one record written, the client told."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest

from deployments.config import Fault, GatewayConfig
from tests.path.cluster import Path, running, simulated, until

ENDPOINTS: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": [{"role": "user", "content": "count for ever"}]},
    "/completions": {"prompt": "count for ever"},
}
LONG = {"max_tokens": 8_000, "ignore_eos": True}
EVERY_WAY = pytest.mark.parametrize(
    ("endpoint", "stream"),
    [(endpoint, stream) for endpoint in ENDPOINTS for stream in (False, True)],
    ids=lambda value: {True: "stream", False: "unary"}.get(value, value),
)
GATEWAY = GatewayConfig(passthrough=("ignore_eos",), engine_silence_s=0.4, max_wait_s=5, heartbeat_s=30)


def body(endpoint: str, *, stream: bool, **more: Any) -> dict[str, Any]:
    return {"model": "sim", "stream": stream, **ENDPOINTS[endpoint], **LONG, **more}


@pytest.fixture
async def session() -> AsyncGenerator[aiohttp.ClientSession, None]:
    async with aiohttp.ClientSession() as session:
        yield session


class Lines:
    """The records' log lines."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        caplog.set_level(logging.INFO, logger="themis.calls")

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line.getMessage()) for line in self._caplog.records if line.name == "themis.calls"]

    async def only(self, ending: str) -> dict[str, Any]:
        """Exactly one call was written, and so it ended."""
        await until(lambda: bool(self.all()), "the call is written")
        (line,) = self.all()
        assert line["ending"] == ending
        return line


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return Lines(caplog)


async def _leave(session: aiohttp.ClientSession, path: Path, payload: dict[str, Any], when: str) -> None:
    """Calls, and goes away at that moment."""

    async def call() -> None:
        async with session.post(f"{path.url}{_endpoint(payload)}", json=payload, headers=path.headers) as answer:
            async for _ in answer.content.iter_any():
                first.set()

    first = asyncio.Event()
    task = asyncio.create_task(call())
    pool = path.gateway.pools["sim"]
    if when == "waiting":
        await until(lambda: pool.waiting == 1, "the call waits in the gateway")
    elif when == "before the first token":
        await until(lambda: path.servers[0].report().running == 1, "the engine has the call")
    else:
        await first.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _endpoint(payload: dict[str, Any]) -> str:
    return "/chat/completions" if "messages" in payload else "/completions"


@EVERY_WAY
async def test_a_client_that_leaves_while_waiting(
    endpoint: str, stream: bool, session: aiohttp.ClientSession, lines: Lines
) -> None:
    async with running([simulated(max_running=1).model_copy(update={"queue": 0})], gateway=GATEWAY) as path:
        blocker = asyncio.create_task(_hold(session, path))
        await until(lambda: path.servers[0].report().running == 1, "the only slot is taken")
        await _leave(session, path, body(endpoint, stream=stream), "waiting")
        line = await lines.only("client_gone")
        assert line["attempts"] == 0
        blocker.cancel()
        await asyncio.gather(blocker, return_exceptions=True)


async def _hold(session: aiohttp.ClientSession, path: Path) -> None:
    payload = body("/completions", stream=True)
    async with session.post(f"{path.url}/completions", json=payload, headers=path.headers) as answer:
        await answer.read()


@EVERY_WAY
async def test_a_client_that_leaves_before_the_first_token(
    endpoint: str, stream: bool, session: aiohttp.ClientSession, lines: Lines
) -> None:
    pool = simulated(faults=[Fault(kind="hang", at_token=0)])
    async with running([pool], gateway=GATEWAY.model_copy(update={"engine_silence_s": 60})) as path:
        await _leave(session, path, body(endpoint, stream=stream), "before the first token")
        await lines.only("client_gone")
        await path.at_rest()


@EVERY_WAY
async def test_a_client_that_leaves_in_the_middle(
    endpoint: str, stream: bool, session: aiohttp.ClientSession, lines: Lines
) -> None:
    """A unary call has no visible middle; it is left while the engine generates."""
    async with running([simulated()], gateway=GATEWAY) as path:
        await _leave(session, path, body(endpoint, stream=stream), "mid" if stream else "before the first token")
        await lines.only("client_gone")
        await path.at_rest()


@EVERY_WAY
@pytest.mark.parametrize("where", ["waiting", "before the first token", "mid-stream"])
async def test_a_deadline_that_passes(
    endpoint: str, stream: bool, where: str, session: aiohttp.ClientSession, lines: Lines
) -> None:
    """504 before the first byte; after it an error event and a clean end."""
    faults = [Fault(kind="hang", at_token=0)] if where == "before the first token" else []
    pool = simulated(max_running=1, faults=faults).model_copy(update={"queue": 0})
    gateway = GATEWAY.model_copy(update={"engine_silence_s": 60})
    async with running([pool], gateway=gateway) as path:
        blocker = asyncio.create_task(_hold(session, path) if where == "waiting" else asyncio.sleep(0))
        if where == "waiting":
            await until(lambda: path.servers[0].report().running == 1, "the only slot is taken")
        headers = {**path.headers, "x-request-deadline-ms": "150"}
        payload = body(endpoint, stream=stream)
        async with session.post(f"{path.url}{endpoint}", json=payload, headers=headers) as answer:
            text = await answer.text()
        if stream and where == "mid-stream":
            assert answer.status == 200
            assert _events(text)[-2]["error"]["code"] == "deadline_exceeded"
            assert text.endswith("data: [DONE]\n\n")
        else:
            assert answer.status == 504
            assert json.loads(text)["error"]["code"] == "deadline_exceeded"
        await lines.only("deadline_exceeded")
        blocker.cancel()
        await asyncio.gather(blocker, return_exceptions=True)


def _events(text: str) -> list[Any]:
    data = [event.removeprefix("data: ") for event in text.split("\n\n") if event.startswith("data: ")]
    return [json.loads(one) if one.startswith("{") else one for one in data]


FAULTS = {
    ("hang", 0): (504, "engine_silent"),
    ("garbage", 0): (502, "engine_garbage"),
    ("hang", 3): (200, "engine_silent"),
    ("garbage", 3): (200, "engine_garbage"),
    ("disconnect", 3): (200, "replica_lost"),
}


@EVERY_WAY
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault[0]}-at-{fault[1]}")
async def test_an_engine_that_breaks_is_told_of(
    endpoint: str, stream: bool, fault: tuple[str, int], session: aiohttp.ClientSession, lines: Lines
) -> None:
    """By status before the first byte; by an error event and a clean end after it. A unary answer has no middle."""
    kind, at_token = fault
    status, code = FAULTS[fault]
    pool = simulated(faults=[Fault(kind=kind, at_token=at_token)])
    async with running([pool], gateway=GATEWAY) as path:
        payload = body(endpoint, stream=stream)
        async with session.post(f"{path.url}{endpoint}", json=payload, headers=path.headers) as answer:
            text = await answer.text()
        if stream and at_token:
            events = _events(text)
            assert answer.status == status
            assert events[-1] == "[DONE]"
            assert events[-2]["error"]["code"] == code
            assert len(events) >= at_token
        else:
            assert answer.status in (502, 503, 504)
            assert json.loads(text)["error"]["code"] == (code if kind != "disconnect" else "no_replica")
        await until(lambda: bool(lines.all()), "the call is written")
        (line,) = lines.all()
        assert line["ending"] == json.loads(text.split("data: ")[-2] if stream and at_token else text)["error"]["code"]


@EVERY_WAY
async def test_a_connection_lost_before_the_first_byte_is_tried_elsewhere_unseen(
    endpoint: str, stream: bool, session: aiohttp.ClientSession, lines: Lines
) -> None:
    async with running([simulated()], replicas=2, gateway=GATEWAY) as path:
        await path.script(path.servers[0], [Fault(kind="disconnect", at_token=0)])
        payload = {**body(endpoint, stream=stream), "max_tokens": 4}
        for _ in range(12):  # which of two equals is tried first is a matter of chance
            async with session.post(f"{path.url}{endpoint}", json=payload, headers=path.headers) as answer:
                assert answer.status == 200
                assert await answer.read()
        await until(lambda: len(lines.all()) == 12, "all calls are written")
        assert {line["ending"] for line in lines.all()} == {"finished"}
        assert max(line["attempts"] for line in lines.all()) > 1


async def test_a_reader_that_stalls_is_cut_off_and_holds_nothing(lines: Lines) -> None:
    """The declared policy: reading from the engine stops, and after `client_stall_s` the call is ended."""
    gateway = GATEWAY.model_copy(update={"client_stall_s": 0.3, "client_buffer_kib": 64.0, "engine_silence_s": 60})
    async with running([simulated(decode_ms=0.05)], gateway=gateway) as path:
        host, port = path.root.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        payload = json.dumps({**body("/completions", stream=True), "max_tokens": 8000, "n": 8}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {path.key}\r\n"
        writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(payload) + payload)
        await reader.readexactly(12)
        await lines.only("client_stalled")
        await path.at_rest()
        writer.close()


async def test_a_quiet_stream_gets_heartbeats_and_then_its_answer(session: aiohttp.ClientSession) -> None:
    gateway = GATEWAY.model_copy(update={"heartbeat_s": 0.1, "engine_silence_s": 60})
    pool = simulated(faults=[Fault(kind="slow", at_token=0, factor=500)])
    async with running([pool], gateway=gateway) as path:
        payload = {**body("/chat/completions", stream=True), "max_tokens": 2}
        async with session.post(f"{path.url}/chat/completions", json=payload, headers=path.headers) as answer:
            text = await answer.text()
        assert ": keep-alive\n\n" in text
        assert _events(text)[-1] == "[DONE]"
