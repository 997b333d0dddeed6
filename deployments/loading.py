"""From config to a running engine: which class serves a pool, and which adapter versions it loads."""

import asyncio
import hashlib

from adapters.catalog import AdapterConfig, version_of
from deployments.config import OpenAIEngine, PoolConfig, SimulatedEngine, VllmEngine
from deployments.engines.base import Adapter, Engine


def engine_for(pool: PoolConfig) -> Engine:
    """The engine of a pool, not yet started. Imports only the one it needs: a simulated pool never loads torch."""
    match pool.engine:
        case VllmEngine():
            from deployments.engines.vllm import Vllm  # noqa: PLC0415

            return Vllm(pool.engine, pool.name, adapters=len(pool.adapters))
        case SimulatedEngine():
            from deployments.engines.simulated import Simulated  # noqa: PLC0415

            return Simulated(pool.engine, pool.name)
        case OpenAIEngine():
            from deployments.engines.remote import Remote  # noqa: PLC0415

            return Remote(pool.engine, pool.name)


async def load_adapters(pool: PoolConfig, engine: Engine) -> dict[str, str]:
    """Loads the pool's adapters; returns public name to version. Raises ValueError when one is refused."""
    loaded = {}
    for config in pool.adapters:
        adapter = await asyncio.to_thread(_adapter, config, pool)
        await engine.load_adapter(adapter)
        loaded[config.name] = adapter.version
    return loaded


def _adapter(config: AdapterConfig, pool: PoolConfig) -> Adapter:
    """Brings the adapter to this node and checks it before any engine sees a byte."""
    if not isinstance(pool.engine, VllmEngine):  # a simulated adapter has no weights: its source is its identity
        digest = hashlib.sha256(config.source.encode()).hexdigest()
        return Adapter(version_of(config.name, digest), config.source)
    from adapters.demo import resolve_adapter  # noqa: PLC0415
    from adapters.integrity import digest as digest_of  # noqa: PLC0415
    from deployments.sources import resolve  # noqa: PLC0415

    folder = resolve_adapter(config.source, resolve(pool.engine.model))
    return Adapter(version_of(config.name, digest_of(folder)), str(folder))
