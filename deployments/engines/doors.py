"""The few doors of an engine's app that stay open: an ASGI app in front that lets only listed routes through.

Knows no engine.
"""

from collections.abc import Sequence

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.lifespan import live
from policies.errors import CallerError, MethodNotAllowed, UnknownPath


class Doors:
    """Everything else gets 404 or 405 in OpenAI's envelope. Lifespan events end here."""

    def __init__(self, app: ASGIApp, routes: Sequence[tuple[str, str]]) -> None:
        self._app = app
        self._routes = frozenset(routes)
        self._paths = frozenset(path for _, path in routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._enter(scope, receive, send)
            case "lifespan":
                await live(receive, send)
            case _:
                await send({"type": "websocket.close", "code": 1000})

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if (method, path) in self._routes:
            await self._app(scope, receive, send)
            return
        refusal: CallerError = UnknownPath(f"Invalid URL ({method} {path})")
        if path in self._paths:
            refusal = MethodNotAllowed(f"Not allowed to {method} on {path}")
        await JSONResponse(refusal.envelope(), status_code=refusal.status)(scope, receive, send)
