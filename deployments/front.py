"""The front door: which path leads where, and every error in one envelope. It knows ASGI and no Ray."""

import logging
from collections.abc import Callable, Collection
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from deployments.caller import Headers, HttpCaller
from deployments.lifespan import live
from deployments.metrics import CONTENT_TYPE, GatewayMetrics
from deployments.openai import Endpoint
from deployments.pipeline import Pipeline
from deployments.scrape import may_scrape
from policies.calls import Call, deadline, new_call_id
from policies.errors import MethodNotAllowed, NoReplica, ThemisError, UnknownModel, UnknownPath
from policies.roster import Snapshot

_log = logging.getLogger("themis.gateway")
_POSTS = {endpoint.value: endpoint for endpoint in Endpoint}
_TEXT: Headers = ((b"content-type", b"text/plain; charset=utf-8"),)


class Front:
    """`tells_request_id`: whether to send `x-request-id` ourselves. Serve does it, too: it would stand there twice."""

    def __init__(
        self,
        pipeline: Pipeline,
        metrics: GatewayMetrics,
        *,
        snapshot: Callable[[], Snapshot],
        secrets: Callable[[], Collection[str]],
        deadline_s: float,
        tells_request_id: bool = False,
    ) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._snapshot = snapshot
        self._secrets = secrets
        self._deadline_s = deadline_s
        self._tells_request_id = tells_request_id
        self._gets = {
            "/v1/models": self._models,
            "/healthz": self._alive,
            "/readyz": self._ready,
            "/metrics": self._own_metrics,
            "/targets": self._targets,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived_at, call_id = self._pipeline.clock.now(), new_call_id()
        told: list[tuple[bytes, bytes]] = [(b"x-themis-call-id", call_id.encode())]
        if self._tells_request_id:
            label = dict(scope["headers"]).get(b"x-request-id")
            told.append((b"x-request-id", label or call_id.encode()))
        caller = HttpCaller(scope, receive, send, self._pipeline.clock, told)
        try:
            await self._route(scope["method"], scope["path"], call_id, arrived_at, caller)
        except ThemisError as error:
            await caller.fail(error)
        except Exception:  # noqa: BLE001 - the last boundary: whatever it was, the caller is answered
            _log.exception("call %s failed inside the gateway", call_id)
            await caller.fail(ThemisError("Something went wrong inside the gateway."))

    async def _route(self, method: str, path: str, call_id: str, arrived_at: float, caller: HttpCaller) -> None:
        endpoint = _POSTS.get(path)
        if endpoint and method == "POST":
            ends_at = deadline(caller.header(b"x-request-deadline-ms"), arrived_at=arrived_at, most_s=self._deadline_s)
            call = Call(call_id, endpoint.value, caller.header(b"x-request-id"), arrived_at, ends_at)
            await self._pipeline.run(call, caller)
        elif path in self._gets and method == "GET":
            await self._gets[path](caller)
        elif path.startswith("/v1/models/") and method == "GET":
            await self._model(path.removeprefix("/v1/models/"), caller)
        elif endpoint or path in self._gets or path.startswith("/v1/models/"):
            raise MethodNotAllowed(f"{method} is not allowed on {path}.")
        else:
            raise UnknownPath(f"Unknown request URL: {method} {path}.")

    async def _models(self, caller: HttpCaller) -> None:
        self._pipeline.keys.identify(caller.header(b"authorization"))
        await caller.answer(200, orjson.dumps({"object": "list", "data": self._cards()}))

    async def _model(self, name: str, caller: HttpCaller) -> None:
        self._pipeline.keys.identify(caller.header(b"authorization"))
        for card in self._cards():
            if card["id"] == name:
                await caller.answer(200, orjson.dumps(card))
                return
        raise UnknownModel(f"The model `{name}` does not exist.", param="model")

    def _cards(self) -> list[dict[str, Any]]:
        return [
            {
                "id": target.public,
                "object": "model",
                "created": 0,
                "owned_by": "themis",
                "root": target.pool,
                "parent": target.pool if target.adapter else None,
            }
            for target in self._pipeline.routes.targets()
        ]

    async def _alive(self, caller: HttpCaller) -> None:
        await caller.answer(200, b"ok", _TEXT)

    async def _ready(self, caller: HttpCaller) -> None:
        """Ready when every pool has a replica that serves."""
        missing = [pool.name for pool in self._pipeline.pools.values() if not pool.ready]
        if missing:
            raise NoReplica(f"No replica is up yet: {', '.join(missing)}.", retry_after_s=2.0)
        await caller.answer(200, b"ok", _TEXT)

    async def _own_metrics(self, caller: HttpCaller) -> None:
        self._may_read(caller)
        await caller.answer(200, self._metrics.render(), ((b"content-type", CONTENT_TYPE.encode()),))

    async def _targets(self, caller: HttpCaller) -> None:
        """Prometheus' HTTP service discovery (https://prometheus.io/docs/prometheus/latest/http_sd/)."""
        self._may_read(caller)
        await caller.answer(200, orjson.dumps(targets(self._snapshot())))

    def _may_read(self, caller: HttpCaller) -> None:
        authorization = caller.header(b"authorization")
        if not may_scrape(authorization, self._secrets()):
            self._pipeline.keys.identify(authorization)


def targets(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Every process with metrics of ours, as Prometheus' target groups."""
    groups = [
        {"targets": [gateway.address], "labels": {"role": "gateway", "gateway": gateway.id}}
        for gateway in snapshot.gateways
    ]
    groups += [
        {
            "targets": [replica.address.removeprefix("http://")],
            "labels": {"role": "replica", "pool": replica.pool, "replica": replica.id},
        }
        for replica in snapshot.replicas
    ]
    if snapshot.address:
        groups.append({"targets": [snapshot.address], "labels": {"role": "directory"}})
    return groups
