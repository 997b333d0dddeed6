"""The two ends of a call inside the shell: what comes from the gateway, and what the engine sends back."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import orjson
from starlette.types import Message, Receive, Send

from deployments import wire
from deployments.engines.base import Engine, EngineDied, Meter

_NOTICE_S = 1.0  # an engine that has not ended an abandoned call by itself within this is made to
_SERVER_ERROR = 500


class Listening:
    """`receive`, listened to at all times, so that an abandoned call ends wherever it is.

    Before the engine has the call it is cancelled at once. After `let_engine_notice` the engine reads the disconnect
    itself: cancelling from outside would leave tasks of its own running.
    """

    def __init__(self, receive: Receive, task: "asyncio.Task[object]") -> None:
        self._receive = receive
        self._task = task
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._engine_has_it = False
        self._left: Message | None = None
        self._end: asyncio.TimerHandle | None = None
        self._cancelled = False

    async def __aenter__(self) -> Self:
        self._pump = asyncio.get_running_loop().create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._pump.cancel()
        if self._end:
            self._end.cancel()
        if self._cancelled:
            if kind is None:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
            self._task.uncancel()
        return self._cancelled and kind is asyncio.CancelledError

    async def __call__(self) -> Message:
        if self._left is not None and self._messages.empty():
            return self._left
        return await self._messages.get()

    def let_engine_notice(self) -> None:
        self._engine_has_it = True

    async def _listen(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._left = message
            self._messages.put_nowait(message)
            if self._left is not None:
                grace_s = _NOTICE_S if self._engine_has_it else 0.0
                self._end = asyncio.get_running_loop().call_later(grace_s, self._cancel)
                return

    def _cancel(self) -> None:
        self._cancelled = True
        self._task.cancel()


class MeteredAnswer:
    """`send`, with what the meter counted added out of band. Mutable state: how far the answer is."""

    def __init__(self, send: Send, meter: Meter, engine: Engine, credit: Callable[[], int]) -> None:
        self._send = send
        self._meter = meter
        self._engine = engine
        self._credit = credit
        self._streaming = False
        self._replaced = False
        self.whole = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif not self._replaced:
            await self._body(message)

    async def _start(self, message: Message) -> None:
        if message["status"] >= _SERVER_ERROR and await self._engine_died():
            await self._replace()
            return
        headers = list(message.get("headers", []))
        self._streaming = any(
            name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers
        )
        headers.append((wire.CREDIT.encode(), str(self._credit()).encode()))
        if self._streaming:  # it grows by our comments
            headers = [(name, value) for name, value in headers if name != b"content-length"]
        else:
            headers.append((wire.USAGE.encode(), self._meter.usage.encode().encode()))
        await self._send({**message, "headers": headers})

    async def _body(self, message: Message) -> None:
        last = not message.get("more_body", False)
        if self._streaming:
            body = message.get("body", b"")
            if fresh := self._meter.fresh():
                body = wire.tokens_comment(fresh) + body
            if last:
                body += wire.usage_comment(self._meter.usage) + b"\n"
            message = {**message, "body": body}
        await self._send(message)
        self.whole = last

    async def _engine_died(self) -> bool:
        try:
            await self._engine.check_health()
        except EngineDied:
            return True
        return False

    async def _replace(self) -> None:
        """In the place of a dead engine's error: a refusal, so that the gateway tries elsewhere."""
        self._replaced = True
        await refuse(self._send, 503, "The engine died.", {wire.REFUSED: wire.ENGINE_DEAD})


async def refuse(send: Send, status: int, message: str, headers: dict[str, str]) -> None:
    """The shell's own word in the place of the engine's."""
    error = {"message": message, "type": "server_error", "param": None, "code": "refused"}
    await answer(send, status, orjson.dumps({"error": error}), b"application/json", headers)


async def answer(send: Send, status: int, body: bytes, kind: bytes, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw += [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
