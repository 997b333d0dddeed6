from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from deployments.engines.doors import Doors


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("inside")(scope, receive, send)


DOORS = Doors(inner, (("POST", "/v1/completions"), ("GET", "/v1/models")))


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/completions", 200, None),
        ("GET", "/v1/models", 200, None),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("POST", "/tokenize", 404, "unknown_url"),
        ("POST", "/v1/completions/", 404, "unknown_url"),
    ],
)
async def test_only_listed_routes_are_open(method: str, path: str, status: int, code: str | None) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=DOORS), base_url="http://engine") as client:
        answer = await client.request(method, path)
    assert answer.status_code == status
    if code:
        assert answer.json()["error"]["code"] == code
    else:
        assert answer.text == "inside"


async def test_lifespan_events_are_answered_without_the_app() -> None:
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(events)

    async def send(message: Any) -> None:
        sent.append(message)

    await DOORS({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


async def test_a_websocket_is_turned_away() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("nothing is read from it")

    async def send(message: Any) -> None:
        sent.append(message)

    await DOORS({"type": "websocket", "path": "/v1/models"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]
