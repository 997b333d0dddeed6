"""From one replica to one caller: bytes over pooled keep-alive connections, errors translated at this boundary.

It knows HTTP and the wire, not why this replica was chosen. Nothing is retried here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import orjson

from deployments import wire
from deployments.caller import HttpCaller
from deployments.frames import DONE, Frames, renaming
from deployments.pool import Seat
from deployments.records import Record
from deployments.wire import Usage
from policies.clock import Clock
from policies.errors import EngineGarbage, EngineSilent, OverCredit, ReplicaLost

_ANSWER_BOUND = 64 * 2**20  # bytes of a unary answer
_KEEP_ALIVE_S = 60.0  # below the replica's own, so that the gateway closes first


@dataclass(frozen=True, slots=True)
class Errand:
    """What to send where. `engine_model` is the name that the engine knows, `public_model` the caller's."""

    url: str
    body: bytes
    headers: dict[str, str]
    engine_model: str
    public_model: str


class Relay:
    """Owns the connections to replicas."""

    def __init__(self, *, silence_s: float, buffer_bytes: int, secret: Callable[[], str], clock: Clock) -> None:
        self._secret = secret
        self._clock = clock
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=silence_s),
            # Reading from the engine stops when twice this waits for a slow reader.
            read_bufsize=buffer_bytes // 2,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(self, errand: Errand, seat: Seat, caller: HttpCaller, record: Record) -> None:
        """Runs the errand and passes the answer on. Raises ReplicaLost, OverCredit, EngineSilent or EngineGarbage.

        `record.first_byte_at` tells whether any of the answer reached the caller: until then it can be tried elsewhere.
        """
        headers = {**errand.headers, "content-type": "application/json", wire.SECRET: self._secret()}
        try:
            async with self._session.post(errand.url, data=errand.body, headers=headers) as answer:
                record.connected_at = self._clock.now()
                credit = answer.headers.get(wire.CREDIT, "")
                if credit.isdigit():
                    seat.credit = int(credit)
                _raise_refusal(answer.headers.get(wire.REFUSED))
                if answer.content_type == "text/event-stream":
                    await self._stream(answer, errand, caller, record)
                else:
                    await self._whole(answer, errand, caller, record)
        except aiohttp.ConnectionTimeoutError as error:  # before the two that it is, too
            raise ReplicaLost("The replica does not take connections.") from error
        except aiohttp.ServerTimeoutError as error:
            raise EngineSilent("The engine sent nothing for too long.") from error
        except (aiohttp.ClientPayloadError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise ReplicaLost("The replica closed the connection.") from error
        except aiohttp.ClientError as error:
            raise EngineGarbage("The engine sent what is no HTTP answer.") from error

    async def _whole(self, answer: aiohttp.ClientResponse, errand: Errand, caller: HttpCaller, record: Record) -> None:
        body = b""
        while part := await answer.content.readany():
            body += part
            if len(body) > _ANSWER_BOUND:
                raise EngineGarbage(f"The engine's answer has more than {_ANSWER_BOUND} bytes.")
        _check_json(body)
        record.usage = _usage(answer.headers.get(wire.USAGE))
        record.status = answer.status
        record.first_byte_at = self._clock.now()
        if rename := renaming(errand.engine_model, errand.public_model):
            body = body.replace(*rename)
        if caller.started:  # a heartbeat went out: the answer has to be an event
            await caller.write(b"data: %s\n\n%s\n\n" % (body, DONE))
            await caller.finish()
        else:
            await caller.answer(answer.status, body)

    async def _stream(self, answer: aiohttp.ClientResponse, errand: Errand, caller: HttpCaller, record: Record) -> None:
        frames = Frames(renaming(errand.engine_model, errand.public_model))
        record.status = answer.status
        content = answer.content
        try:
            while data := await content.readany():
                if events := frames.feed(data):
                    if record.first_byte_at is None:
                        record.first_byte_at = self._clock.now()
                    await caller.write(events)
            frames.flush()
            if not frames.done:
                raise ReplicaLost("The engine's stream broke off.")
        finally:
            record.usage = frames.usage or _seen(frames)
        await caller.finish()


def _raise_refusal(reason: str | None) -> None:
    """Raises what the shell itself, not the engine, had to say."""
    if reason in (
        wire.OVER_CREDIT,
        wire.DRAINING,
    ):  # it told its credit as well, so it is not asked again before it can
        raise OverCredit("The replica has no room.")
    if reason is not None:
        raise ReplicaLost(f"The replica refused the call: {reason}.")


def _check_json(body: bytes) -> None:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise EngineGarbage("The engine's answer is no JSON.") from error


def _usage(text: str | None) -> Usage | None:
    return Usage.decode(text) if text else None


def _seen(frames: Frames) -> Usage | None:
    """What a broken stream is known to have generated. Its prompt's count never came."""
    generated = sum(part.count(b",") + 1 for part in bytes(frames.tokens).split(b";") if part)
    return Usage(generated=generated) if generated else None
