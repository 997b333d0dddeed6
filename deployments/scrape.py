"""A port of its own for one process's metrics: Prometheus must reach each gateway, not a random one behind HAProxy."""

import hashlib
import hmac
from collections.abc import Callable, Collection

from aiohttp import web

from deployments.metrics import CONTENT_TYPE


def scrape_token(secret: str) -> str:
    """The bearer token of Prometheus: made from the cluster secret, opens metrics and nothing else."""
    return hmac.new(secret.encode(), b"themis scrape", hashlib.sha256).hexdigest()


def may_scrape(authorization: str | None, secrets: Collection[str]) -> bool:
    presented = (authorization or "").removeprefix("Bearer ").encode()
    matches = [hmac.compare_digest(scrape_token(secret).encode(), presented) for secret in secrets]
    return any(matches)


class ScrapeServer:
    def __init__(self, render: Callable[[], bytes], secrets: Callable[[], Collection[str]]) -> None:
        self._render = render
        self._secrets = secrets
        self._runner: web.AppRunner | None = None

    async def start(self, host: str) -> str:
        """Listens on a free port of `host`; returns `host:port`."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, 0)
        await site.start()
        port = self._runner.addresses[0][1]
        return f"{host}:{port}"

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _metrics(self, request: web.Request) -> web.Response:
        if not may_scrape(request.headers.get("Authorization"), self._secrets()):
            raise web.HTTPUnauthorized
        return web.Response(body=self._render(), headers={"Content-Type": CONTENT_TYPE})
