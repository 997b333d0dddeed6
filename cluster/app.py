"""The whole Serve graph on one screen. `import_path: cluster.app:build`; Serve calls it in a task: no side effects."""

from functools import partial
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from cluster.config import ThemisConfig
from cluster.directory import connect
from cluster.telemetry import prepare
from deployments.config import GatewayConfig, PoolConfig, ReplicaBounds
from deployments.gateway import Gateway
from deployments.placement import serve_options
from deployments.replica import Replica

_STOP_MARGIN_S = 30.0  # beyond the drain, for the engine to stop, before Serve kills
_MANY = 100_000  # Serve's own queue must never be the narrow place: it is unseen


def build(args: dict[str, Any]) -> Application:
    """The graph of one config: a gateway, and a pool of replicas per model."""
    config = ThemisConfig.model_validate(args)
    pools = [pool_of(pool) for pool in config.pools]
    prepare_gateway = partial(prepare, config.gateway)
    return gateway_of(config.gateway).bind(
        config.gateway, config.identity, config.pools, connect, prepare_gateway, *pools
    )


def gateway_of(config: GatewayConfig) -> serve.Deployment:
    return serve.deployment(
        name="gateway",
        max_ongoing_requests=_MANY,
        graceful_shutdown_timeout_s=config.drain_s + _STOP_MARGIN_S,
        max_surge_percent=100,
        health_check_period_s=2,
        ray_actor_options={"num_cpus": 0.1},
        **_scale(config.replicas),
    )(Gateway)


def pool_of(pool: PoolConfig) -> Application:
    deployment = serve.deployment(
        name=f"pool-{pool.name}",
        max_ongoing_requests=_MANY,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=pool.drain_s + _STOP_MARGIN_S,
        max_surge_percent=100,
        health_check_period_s=2,
        **serve_options(pool),
        **_scale(pool.replicas),
    )(Replica)
    return deployment.bind(pool, connect, prepare)


def _scale(bounds: ReplicaBounds) -> dict[str, Any]:
    if bounds.min == bounds.max:
        return {"num_replicas": bounds.min}
    policy = AutoscalingPolicy(policy_function="cluster.autoscaling:by_slots")
    scaling = AutoscalingConfig(
        min_replicas=bounds.min, max_replicas=bounds.max, initial_replicas=max(1, bounds.min), policy=policy
    )
    return {"autoscaling_config": scaling}
