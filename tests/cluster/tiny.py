"""The smallest application that the launcher can start: ready at once, echoes the key's names, fails when told to."""

import json
from typing import Any

from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.config import ThemisConfig


@serve.deployment
@serve.ingress()
class Tiny:
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = ThemisConfig.model_validate(config)
        if self._config.pools[0].name == "broken":
            raise RuntimeError("the weights are made of cheese")

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        body = json.dumps([key.name for key in self._config.identity.keys]).encode()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": body})

        return app


def build(args: dict[str, Any]) -> Application:
    return Tiny.options(graceful_shutdown_timeout_s=5).bind(args)  # type: ignore[no-any-return,attr-defined]
