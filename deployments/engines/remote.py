"""Any server that speaks the OpenAI API, as an engine: a reverse proxy that speaks in the operator's name.

The caller's credentials and our own headers stay here, the operator's key is added, and the model's name is put in
terms of the other side. Tells the meter the usage that the answer states, since it sees no tokens.
"""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.config import OpenAIEngine
from deployments.engines.base import Adapter, EngineDied, Limits, Load, current
from deployments.wire import Usage
from policies.errors import (
    ClientGone,
    EngineFailed,
    EngineGarbage,
    EngineSilent,
    InvalidRequest,
    MethodNotAllowed,
    NoReplica,
    ReplicaLost,
    ThemisError,
    UnknownModel,
    UnknownPath,
)

_ROUTES = {
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/v1/embeddings": "POST",
    "/v1/models": "GET",
    "/health": "GET",
}
_STREAMING = frozenset({"/v1/chat/completions", "/v1/completions"})
_KEY_REFUSED = frozenset({401, 403})
_REDIRECTS = range(300, 400)  # not followed: the operator's key goes to the configured server only
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=600)
_PASSED_ON = frozenset({b"content-type", b"accept", b"user-agent", b"openai-beta"})
# Connection fields (RFC 9110, 7.6.1), what the client library has already decoded, and what concerns the operator only.
_KEPT_BACK = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
    "upgrade", "content-encoding", "content-length", "set-cookie", "server", "date", "openai-organization",
    "openai-project",
})  # fmt: skip
_EVENT_END = re.compile(rb"\r?\n\r?\n")
_USAGE_PROBE = b'"usage"'


class Remote:
    """Mutable state: the session while started, and the number of calls there now."""

    def __init__(self, config: OpenAIEngine, model: str) -> None:
        """`model` is the public name, put back into answers."""
        self.app: ASGIApp = self._serve
        self.limits = Limits(config.max_model_len, config.max_running)
        self._config = config
        self._model = model
        self._session: aiohttp.ClientSession | None = None
        self._running = 0
        named = rb'"model"(:\s?)' + re.escape(orjson.dumps(config.model))
        self._theirs = re.compile(named)
        self._ours = rb'"model"\1' + orjson.dumps(model).replace(b"\\", rb"\\")
        self._registry = CollectorRegistry()
        running = Gauge("remote:num_requests_running", "Calls at the remote now.", registry=self._registry)
        running.set_function(lambda: self._running)
        self._answers = Counter("remote:answers", "Answers by status.", ["status"], registry=self._registry)

    def __repr__(self) -> str:
        return f"<Remote {self._config.model} at {self._config.url} [calls: {self._running} running]>"

    async def start(self) -> None:
        """Raises LookupError, naming the variable, when the environment lacks the key."""
        if self._session is not None:
            return
        headers = {"accept-encoding": "identity"}  # a compressed stream would arrive in lumps
        if self._config.key_env is not None:
            key = os.environ.get(self._config.key_env)
            if not key:
                raise LookupError(f"the environment variable {self._config.key_env} (the remote's key) is not set")
            headers["authorization"] = f"Bearer {key}"
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        # No cookies: one session carries the calls of all callers.
        jar = aiohttp.DummyCookieJar()
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, timeout=_TIMEOUT, cookie_jar=jar)

    async def stop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def check_health(self) -> None:
        if self._session is None:
            raise EngineDied("the connection to the remote is closed")

    def load(self) -> Load:
        return Load(running=self._running)

    async def load_adapter(self, adapter: Adapter) -> None:
        raise ValueError(f"a remote serves what it serves: {adapter.version} cannot be loaded there")

    async def unload_adapter(self, version: str) -> None:
        """Nothing was loaded."""

    def metrics(self) -> bytes:
        return generate_latest(self._registry)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"a remote engine speaks HTTP only, not {scope['type']}")
        path = scope["path"]
        try:
            if path not in _ROUTES:
                raise UnknownPath(f"Unknown path: {path}")
            if scope["method"] != _ROUTES[path]:
                raise MethodNotAllowed(f"{scope['method']} is not allowed on {path}")
            if path == "/health":
                await _whole(send, 200 if self._session else 503, b"")
            elif path == "/v1/models":
                await _whole(send, 200, self._models())
            else:
                await self._relay(scope, receive, send)
        except ClientGone:
            return
        except ThemisError as error:
            await _whole(send, error.status, orjson.dumps(error.envelope()))

    def _models(self) -> bytes:
        described = {"id": self._model, "object": "model", "created": 0, "owned_by": "remote"}
        return orjson.dumps({"object": "list", "data": [{**described, "max_model_len": self._config.max_model_len}]})

    async def _relay(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, drop_usage = self._rewrite(await _read(receive), streaming=scope["path"] in _STREAMING)
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _PASSED_ON}
        url = self._config.url.rstrip("/") + scope["path"].removeprefix("/v1")
        self._running += 1
        try:
            async with _while_present(receive), self._answer(url, body, headers) as answer:
                self._answers.labels(str(answer.status)).inc()
                await self._forward(answer, send, drop_usage=drop_usage)
        finally:
            self._running -= 1

    def _rewrite(self, body: bytes, *, streaming: bool) -> tuple[bytes, bool]:
        """The body in the remote's terms, and whether a usage event must be kept from the caller."""
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError as fault:
            raise InvalidRequest(f"The body is not valid JSON: {fault}") from None
        if not isinstance(fields, dict):
            raise InvalidRequest("The body must be a JSON object.")
        if fields.get("model") != self._model:
            raise UnknownModel(f"The model `{fields.get('model')}` does not exist.", param="model")
        fields["model"] = self._config.model
        options = fields.get("stream_options") or {}
        drop_usage = bool(streaming and fields.get("stream") is True and not options.get("include_usage"))
        if drop_usage:
            fields["stream_options"] = {**options, "include_usage": True}
        return orjson.dumps(fields), drop_usage

    @asynccontextmanager
    async def _answer(self, url: str, body: bytes, headers: dict[str, str]) -> AsyncGenerator[aiohttp.ClientResponse]:
        """The remote's answer up to its headers; leaving it half-read closes its connection, which aborts the call."""
        if self._session is None:
            raise NoReplica("The connection to the remote is closed.")
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                yield answer
        except TimeoutError:
            raise EngineSilent("The remote did not answer in time.") from None
        except aiohttp.ClientError as fault:
            raise ReplicaLost(f"The remote cannot be reached or broke off: {type(fault).__name__}") from fault

    async def _forward(self, answer: aiohttp.ClientResponse, send: Send, *, drop_usage: bool) -> None:
        if answer.status in _KEY_REFUSED:
            raise EngineFailed("The remote refused the key of this server, not that of the caller: tell the operator.")
        if answer.status in _REDIRECTS:
            raise EngineFailed("The remote redirects to another address: its configured URL is not its own.")
        headers = [
            (name.lower().encode(), value.encode("latin-1"))
            for name, value in answer.headers.items()
            if name.lower() not in _KEPT_BACK and not name.lower().startswith("x-themis-")
        ]
        if answer.content_type == "text/event-stream":
            await self._stream(answer, send, headers, drop_usage=drop_usage)
            return
        body = await answer.read()
        if answer.ok:
            _bill(_json(body))
        await _whole(send, answer.status, self._renamed(body), headers)

    async def _stream(
        self, answer: aiohttp.ClientResponse, send: Send, headers: list[tuple[bytes, bytes]], *, drop_usage: bool
    ) -> None:
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        try:
            async with aclosing(_events(answer.content)) as batches:
                async for events in batches:
                    kept = b"".join(event for event in events if not (_billing(event) and drop_usage))
                    if kept:
                        await send({"type": "http.response.body", "body": self._renamed(kept), "more_body": True})
        except (aiohttp.ClientError, TimeoutError) as fault:
            error = ReplicaLost(f"The remote broke off: {type(fault).__name__}")
            event = b"data: " + orjson.dumps(error.envelope()) + b"\n\ndata: [DONE]\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _renamed(self, body: bytes) -> bytes:
        return self._theirs.sub(self._ours, body)


async def _events(content: aiohttp.StreamReader) -> AsyncGenerator[list[bytes]]:
    """Whole events, as many as have arrived; a rest without an end is passed on at the end as it is."""
    rest = b""
    async for data in content.iter_any():
        rest += data
        ends = [match.end() for match in _EVENT_END.finditer(rest)]
        if ends:
            yield [rest[start:end] for start, end in zip([0, *ends], ends, strict=False)]
            rest = rest[ends[-1] :]
    if rest:
        yield [rest]


def _billing(event: bytes) -> bool:
    """Tells the meter the usage in an event, if any; true when it holds nothing else."""
    if _USAGE_PROBE not in event:
        return False
    lines = [line.removeprefix(b"data:") for line in event.splitlines() if line.startswith(b"data:")]
    try:
        fields = orjson.loads(b"\n".join(lines))
    except orjson.JSONDecodeError:
        return False  # not ours to judge: the caller gets it as it is
    return isinstance(fields, dict) and _bill(fields) and not fields.get("choices")


def _bill(fields: dict[str, Any]) -> bool:
    usage = fields.get("usage")
    if not isinstance(usage, dict):
        return False
    meter = current.get()
    if meter is not None:
        details = usage.get("prompt_tokens_details") or {}
        told = (usage.get("prompt_tokens"), details.get("cached_tokens"), usage.get("completion_tokens"))
        meter.billed(Usage(*(int(number or 0) for number in told)))
    return True


def _json(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise EngineGarbage("The remote answered what is no JSON object.")
    return fields


@asynccontextmanager
async def _while_present(receive: Receive) -> AsyncGenerator[None]:
    """Ends the block with ClientGone as soon as the client leaves."""
    block = asyncio.current_task()
    assert block is not None
    left = False

    async def watch(cancel: Callable[[], object]) -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        cancel()

    watcher = asyncio.create_task(watch(block.cancel))
    try:
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.wait((watcher,))
    except asyncio.CancelledError:
        if not left:
            raise
        block.uncancel()
        raise ClientGone("the client left") from None


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client left before its request was whole")
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def _whole(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    headers = headers or [(b"content-type", b"application/json")]
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
