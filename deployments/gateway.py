"""The Gateway deployment: lets Serve run a GatewayRuntime. Stateless; it never imports vllm or torch."""

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from deployments.attendance import GatewayDirectory
from deployments.config import GatewayConfig, PoolConfig
from deployments.runtime import GatewayRuntime
from policies.identity import IdentityConfig


@serve.ingress()
class Gateway:
    """Serve's side: construction, health, stop. `connect` opens the Directory."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        config: GatewayConfig,
        identity: IdentityConfig,
        pools: Sequence[PoolConfig],
        connect: Callable[[], GatewayDirectory],
        prepare: Callable[[], None],
        *handles: DeploymentHandle[Any],
    ) -> None:
        prepare()
        self._handles = handles  # the graph's edges; tokens do not travel through them
        self._runtime = GatewayRuntime(config, identity, pools, connect())
        await self._runtime.start(ray.util.get_node_ip_address())

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._runtime.app

    async def __del__(self) -> None:
        # NOTE: Serve itself waits for the HTTP calls of an ingress before it comes here.
        await self._runtime.stop()
