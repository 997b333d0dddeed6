"""The OpenAI API of the simulated engine as a bare ASGI app, since benchmarks measure others against it.

Translates: requests to calls, pieces to bodies, errors to OpenAI's envelope, scripted faults to what a client sees of
them. A client that leaves ends its call at once, streaming or not.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, Protocol

import orjson
from pydantic import TypeAdapter, ValidationError
from starlette.types import Message, Receive, Scope, Send

from deployments.config import Fault
from deployments.engines.simulated.answers import DONE, Answer
from deployments.engines.simulated.call import Call, Struck
from deployments.engines.simulated.requests import Plan, parse
from deployments.lifespan import live
from policies.errors import ClientGone, EngineFailed, InvalidRequest, MethodNotAllowed, ThemisError, UnknownPath

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_GARBAGE = b"\x00\xff\xfe%% garbage %%\x00"
_FAULTS: TypeAdapter[tuple[Fault, ...]] = TypeAdapter(tuple[Fault, ...])

Route = Callable[[Receive, Send], Awaitable[None]]


class Cut(Exception):
    """Leaves the app, so that the server closes the connection."""


class Host(Protocol):
    """What the API asks of the engine."""

    def admit(self, plan: Plan) -> AbstractContextManager[tuple[Call, Answer]]:
        """A call for the time of the block. Raises ThemisError when the engine refuses it."""
        ...

    def abort(self, call: Call) -> None:
        """The client has left; the slot is freed before this returns."""
        ...

    def models(self) -> Mapping[str, Any]: ...

    def state(self) -> Mapping[str, Any]: ...

    def script(self, faults: tuple[Fault, ...]) -> None: ...

    def crash(self) -> None: ...


class Api:
    """Knows routes, bodies and faults; the host does the rest."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._routes: dict[tuple[str, str], Route] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completion,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): self._health,
            ("GET", "/simulated/state"): self._state,
            ("POST", "/simulated/faults"): self._script,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        if scope["type"] != "http":
            raise NotImplementedError(f"the simulated engine speaks HTTP only, not {scope['type']}")
        try:
            await self._route(scope)(receive, send)
        except ClientGone:
            return
        except ThemisError as error:
            await _json(send, error.envelope(), error.status)

    def _route(self, scope: Scope) -> Route:
        path = scope["path"]
        route = self._routes.get((scope["method"], path))
        if route is None and any(known == path for _, known in self._routes):
            raise MethodNotAllowed(f"{scope['method']} is not allowed on {path}")
        if route is None:
            raise UnknownPath(f"Unknown path: {path}")
        return route

    async def _chat(self, receive: Receive, send: Send) -> None:
        await self._generate(parse(await _read(receive), chat=True), receive, send)

    async def _completion(self, receive: Receive, send: Send) -> None:
        await self._generate(parse(await _read(receive), chat=False), receive, send)

    async def _models(self, _receive: Receive, send: Send) -> None:
        await _json(send, self._host.models())

    async def _health(self, _receive: Receive, send: Send) -> None:
        await _whole(send, b"")

    async def _state(self, _receive: Receive, send: Send) -> None:
        await _json(send, self._host.state())

    async def _script(self, receive: Receive, send: Send) -> None:
        try:
            faults = _FAULTS.validate_json(await _read(receive))
        except ValidationError as fault:
            raise InvalidRequest(str(fault)) from None
        self._host.script(faults)
        await _json(send, {"faults": len(faults)})

    async def _generate(self, plan: Plan, receive: Receive, send: Send) -> None:
        with self._host.admit(plan) as (call, answer):
            async with self._watched(call, receive):
                try:
                    await (_stream if plan.stream else _unary)(call, answer, send)
                except Struck as struck:
                    await self._strike(struck.fault, call, send)

    @asynccontextmanager
    async def _watched(self, call: Call, receive: Receive) -> AsyncGenerator[None]:
        """Sees the client leave, whatever the answer is waiting for."""
        watcher = asyncio.create_task(self._watch(call, receive))
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.wait((watcher,))

    async def _watch(self, call: Call, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._host.abort(call)

    async def _strike(self, fault: Fault, call: Call, send: Send) -> None:
        streaming = call.plan.stream and call.generated > 0
        if fault.kind == "crash":
            self._host.crash()
        elif fault.kind == "disconnect":
            if not streaming:
                # No server writes such a header: it takes the answer for begun, writes nothing, and, as the error
                # leaves the app, closes the connection. ASGI has no other word for that.
                await send({"type": "http.response.start", "status": 200, "headers": [(b"\0", b"")]})
            raise Cut("a scripted fault cuts the connection")
        elif fault.kind == "garbage":
            headers = [_EVENTS if call.plan.stream else _JSON]
            await (_end(send, _GARBAGE) if streaming else _whole(send, _GARBAGE, headers=headers))
        else:
            error = EngineFailed("a scripted fault")
            if not streaming:
                await _json(send, error.envelope(), 500)
            else:
                await _end(send, b"data: " + orjson.dumps(error.envelope()) + b"\n\n" + DONE)


async def _unary(call: Call, answer: Answer, send: Send) -> None:
    await _whole(send, answer.whole(await call.take()))


async def _stream(call: Call, answer: Answer, send: Send) -> None:
    """The status goes out with the first token: until then an error has a status of its own."""
    pieces = await call.take()
    await send({"type": "http.response.start", "status": 200, "headers": [_EVENTS]})
    opening = answer.opening()
    while True:
        body = opening + b"".join(map(answer.chunk, pieces))
        opening = b""
        if call.finished:
            await _end(send, body + answer.closing())
            return
        await send({"type": "http.response.body", "body": body, "more_body": True})
        pieces = await call.take()


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client left before its request was whole")
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def _json(send: Send, body: Mapping[str, Any], status: int = 200) -> None:
    await _whole(send, orjson.dumps(body), status)


async def _whole(send: Send, body: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*(headers or [_JSON]), length]})
    await _end(send, body)


async def _end(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": False})
