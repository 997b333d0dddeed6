"""The caller's side of one HTTP call: its body in, its answer out, and whether it is still there.

It knows ASGI (https://asgi.readthedocs.io/en/latest/specs/www.html) and SSE framing, not what is said. Another kind of
caller (a Ray job) has the same methods.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress

import orjson
from starlette.types import Message, Receive, Scope, Send

from deployments.frames import DONE
from policies.clock import Clock
from policies.errors import BodyTooLarge, ClientGone, ClientLeft, DeadlineExceeded, ThemisError

Headers = Sequence[tuple[bytes, bytes]]
_JSON = (b"content-type", b"application/json")
_STREAM = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"))
_LAST_WORD_S = 5.0
HEARTBEAT = b": keep-alive\n\n"


class HttpCaller:
    """Mutable state: how far the answer is (`started`, `streaming`, `ended`), since when nothing was sent, since when a
    send waits, and why the call was ended from outside.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, clock: Clock, headers: Headers = ()) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.started = False  # the status line is out: errors can no longer be one
        self.streaming = False
        self.ended = False
        self.quiet_since = clock.now()  # nothing was sent since
        self.blocked_since: float | None = None  # a send waits for a slow reader since
        self._receive = receive
        self._raw_send = send
        self._clock = clock
        self._answer_headers = tuple(headers)
        self._task: asyncio.Task[object] | None = None
        self._why: ThemisError | None = None

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, bound: int, deadline_at: float) -> bytes:
        """The whole body. Raises BodyTooLarge as soon as it is known to exceed `bound` bytes."""
        try:
            async with asyncio.timeout(max(0.0, deadline_at - self._clock.now())):
                return await self._whole_body(bound)
        except TimeoutError:
            raise DeadlineExceeded("The deadline of this call passed while it was being sent.") from None

    async def _whole_body(self, bound: int) -> bytes:
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > bound:
            raise BodyTooLarge(f"The body has {int(announced)} bytes; at most {bound} are taken.")
        body = b""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("The client left while sending.")
            part: bytes = message.get("body", b"")
            body += part
            if len(body) > bound:
                raise BodyTooLarge(f"The body has more than {bound} bytes.")
            if not message.get("more_body", False):
                return body

    @asynccontextmanager
    async def attended(self, deadline_at: float) -> AsyncGenerator[None, None]:
        """Ends what runs inside when the client leaves, the deadline passes, or `end` says so: with that reason.

        Watches `receive` itself: a client can switch off Serve's own cancellation by a header.
        """
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        loop = asyncio.get_running_loop()
        watch = loop.create_task(self._watch())
        late = DeadlineExceeded("The deadline of this call passed.")
        timer = loop.call_later(max(0.0, deadline_at - self._clock.now()), self.end, late)
        try:
            yield
        except asyncio.CancelledError:
            if self._why is None:
                raise
            task.uncancel()
            self._task = None
            raise self._why from None
        finally:
            timer.cancel()
            watch.cancel()
            if self._task is not None and self._why is not None:
                # It ended by itself in the very turn of the loop in which it was to be ended: take the order back.
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
                task.uncancel()
            self._task = None

    def end(self, why: ThemisError) -> None:
        """Ends the call from outside, for that reason. Harmless once its answer is whole."""
        if self._task is not None and self._why is None and not self.ended:
            self._why = why
            self._task.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.end(ClientGone("The client went away."))

    async def answer(self, status: int, body: bytes, headers: Headers = (_JSON,)) -> None:
        """A whole answer that is no stream."""
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, (*headers, length))
        await self._send({"type": "http.response.body", "body": body})
        self.ended = True

    async def stream(self) -> None:
        """Starts a stream, if it has not begun."""
        if not self.started:
            self.streaming = True
            await self._start(200, _STREAM)

    async def write(self, events: bytes) -> None:
        """Whole events. Waits while a slow reader's buffer is full."""
        if not self.started:
            await self.stream()
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def finish(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})
        self.ended = True

    async def heartbeat(self) -> None:
        await self.write(HEARTBEAT)

    async def fail(self, error: ThemisError) -> None:
        """Tells of an error: by status before the first byte, by an event after it; to nobody when nobody is there."""
        if self.ended or isinstance(error, ClientLeft):
            return
        with suppress(TimeoutError):  # a client that reads nothing is not told for ever
            async with asyncio.timeout(_LAST_WORD_S):
                await self._tell(error)

    async def _tell(self, error: ThemisError) -> None:
        body = orjson.dumps(error.envelope())
        if not self.started:
            wait = error.retry_after_s
            retry = () if wait is None else ((b"retry-after", str(max(1, round(wait))).encode()),)
            await self.answer(error.status, body, (_JSON, *retry))
        elif self.streaming:
            await self.write(b"data: " + body + b"\n\n" + DONE + b"\n\n")
            await self.finish()

    async def _start(self, status: int, headers: Headers) -> None:
        self.started = True
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*headers, *self._answer_headers]}
        )

    async def _send(self, message: Message) -> None:
        self.blocked_since = self._clock.now()
        try:
            await self._raw_send(message)
        except OSError as error:
            raise ClientGone("The client went away.") from error
        self.quiet_since = self._clock.now()
        self.blocked_since = None
