"""A real server on a loopback port for the length of a block, and waiting with a deadline."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.engines.base import Meter, current


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncGenerator[str]:
    """The base URL, without a path."""
    config = uvicorn.Config(
        app, "127.0.0.1", 0, lifespan="off", access_log=False, log_level="critical", interface="asgi3"
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        await server.shutdown()


async def until(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    """Waits for a condition that no event tells of."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.002)


class Metering:
    """Stands where the replica's shell stands: gives each POST a meter, and keeps them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.meters: list[Meter] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        priority = int(headers.get(b"x-test-priority", b"0"))
        meter = Meter(headers.get(b"x-test-call", b"").decode(), priority, headers.get(b"x-test-salt", b"").decode())
        self.meters.append(meter)
        token = current.set(meter)
        try:
            await self._app(scope, receive, send)
        finally:
            current.reset(token)
