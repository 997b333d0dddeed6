"""vLLM in this process: its engine core and workers as children, its own OpenAI app as `app`.

The only file that imports vllm. Everything runs on the loop that calls `start`, which need not be the main thread's,
but must be that of a thread that lives as long as the engine (see lifeline.py).
"""

import asyncio
import itertools
import os
from argparse import Namespace
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import psutil
from prometheus_client import REGISTRY, CollectorRegistry, Metric, generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest, UnloadLoRAAdapterRequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.utils.gc_utils import freeze_gc_heap
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

from adapters.workshop import Progress, silent
from deployments.config import VllmEngine
from deployments.engines.base import Adapter, EngineDied, Limits, Load, current
from deployments.engines.doors import Doors
from deployments.engines.metering import Call, Prompt, call_here
from deployments.sources import resolve

ROUTES = (("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models"))
"""What is reachable of vLLM's app; the rest of it (tokenize, invocations, metrics, ...) is not governed."""

_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # nothing calls home
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; vLLM's own default takes half of the node, and replicas share it
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a replica has threads, and forking those is unsafe
}
_STOP_S = 10.0  # for engine processes to end by themselves
_SLOTS = 4  # adapters in one batch, when the config does not say; each slot takes memory of the largest rank


def engine_args(config: VllmEngine, model: str, adapters: int = 0) -> AsyncEngineArgs:
    """The engine arguments of a pool whose public name is `model`. Raises ValueError on unknown arguments."""
    known = {field.name for field in fields(AsyncEngineArgs)}
    if unknown := sorted(config.args.keys() - known):
        raise ValueError(f"vLLM has no engine arguments {', '.join(unknown)}")
    chosen = _defaults(config.args, adapters) | config.args
    chosen |= {"model": config.model, "served_model_name": [model]}
    return AsyncEngineArgs(**chosen)


def _defaults(args: dict[str, Any], adapters: int) -> dict[str, Any]:
    defaults: dict[str, Any] = {"scheduling_policy": "priority", "enable_log_requests": False}
    if current_platform.is_cpu():
        defaults["enforce_eager"] = True  # compiling takes minutes there and gains little
    if args.get("tensor_parallel_size", 1) * args.get("pipeline_parallel_size", 1) > 1:
        defaults["distributed_executor_backend"] = "ray"  # workers fill the replica's placement group
    if adapters:
        slots = args.get("max_loras", min(adapters, _SLOTS))
        defaults |= {"enable_lora": True, "max_loras": slots, "max_cpu_loras": max(adapters, slots)}
    return defaults


def api_args(config: VllmEngine, engine: AsyncEngineArgs) -> Namespace:
    """What vLLM's OpenAI server reads: its parser's defaults, the engine's arguments, the config's `api_args`."""
    args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    if unknown := sorted(config.api_args.keys() - vars(args).keys()):
        raise ValueError(f"vLLM's OpenAI server has no arguments {', '.join(unknown)}")
    own = {field.name: getattr(engine, field.name) for field in fields(engine)}
    return Namespace(**(vars(args) | own | {"enable_prompt_tokens_details": True} | config.api_args))


class MeteredLLM(AsyncLLM):  # type: ignore[misc] # vllm has no types
    """An engine client that applies each call's priority and cache salt, and counts its tokens.

    Mutable state: `_entering`, the prompts on their way into the engine; changed in `_counted` and `add_request`.
    """

    _serial = itertools.count()

    def __init__(self, *args: Any, **options: Any) -> None:
        self._entering: dict[str, Prompt] = {}
        super().__init__(*args, **options)

    def generate(self, prompt: Any, sampling_params: Any, request_id: str, **options: Any) -> AsyncGenerator[Any, None]:
        # Not itself a generator: prompts are numbered by the order of these calls, which is that of the request.
        call = call_here.get()
        if call is None:
            outputs: AsyncGenerator[Any, None] = super().generate(prompt, sampling_params, request_id, **options)
            return outputs
        # NOTE: vLLM makes ids from a client's x-request-id, so alone they need not be unique.
        unique = f"{request_id}-{next(self._serial)}"
        delta = sampling_params.output_kind == RequestOutputKind.DELTA
        entry = call.enter(unique, sampling_params.n, delta=delta)
        if call.meter:
            options["priority"] = call.meter.priority
            if call.meter.salt is not None and isinstance(prompt, dict):
                prompt = {**prompt, "cache_salt": call.meter.salt}
        return self._counted(entry, prompt, sampling_params, options)

    async def _counted(
        self, entry: Prompt, prompt: Any, sampling_params: Any, options: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        self._entering[entry.request_id] = entry
        async with aclosing(super().generate(prompt, sampling_params, entry.request_id, **options)) as outputs:
            async for output in outputs:
                entry.note(output)
                yield output

    async def add_request(self, request_id: str, *args: Any, **options: Any) -> Any:
        try:
            return await super().add_request(request_id, *args, **options)
        finally:
            # The states outlive the request in the engine, so that what nobody fetched can still be counted.
            if entry := self._entering.pop(request_id, None):
                entry.states = self._states(request_id)

    def _states(self, request_id: str) -> list[Any]:
        inside = self.output_processor
        return [inside.request_states[each] for each in inside.external_req_ids.get(request_id, ())]

    async def leave(self, call: Call) -> None:
        """Ends what a call left in the engine, whichever way its HTTP side ended."""
        call.settle()
        alive = self.output_processor.request_states
        left = {
            state.parent_req.request_id if state.parent_req else state.request_id
            for prompt in call.prompts
            for state in prompt.states
            if state.request_id in alive
        }
        if left:
            await self.abort(left, internal=True)


class _Gauge(StatLoggerBase):  # type: ignore[misc] # vllm has no types
    """The scheduler's last word on how busy it is."""

    def __init__(self) -> None:
        self.waiting = 0
        self.kv_use = 0.0

    def record(self, scheduler_stats: Any, *_args: Any, **_options: Any) -> None:
        if scheduler_stats is not None:
            self.waiting = scheduler_stats.num_waiting_reqs
            self.kv_use = scheduler_stats.kv_cache_usage

    def log_engine_initialized(self) -> None:
        """Nothing to say."""


class _OwnMetrics:
    """vLLM's collectors out of the process-wide registry, which the shell's own share."""

    def collect(self) -> Iterator[Metric]:
        return (metric for metric in REGISTRY.collect() if metric.name.startswith("vllm:"))


class Vllm:
    """The Engine of one vLLM process group.

    Mutable state: `app` and `limits` (from `start` on), `_llm` and `_state` (None when not running); changed in
    `start` and `stop` only.
    """

    app: ASGIApp
    limits: Limits

    def __init__(self, config: VllmEngine, model: str, adapters: int = 0, progress: Progress = silent) -> None:
        self._config = config
        self._model = model
        self._adapters = adapters
        self._progress = progress
        self._gauge = _Gauge()
        self._llm: MeteredLLM | None = None
        self._state: Any = None

    async def start(self) -> None:
        os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
        os.environ.update(self._config.env)
        folder = await asyncio.to_thread(resolve, self._config.model, self._progress)
        engine = engine_args(self._config.model_copy(update={"model": folder}), self._model, self._adapters)
        if engine.enforce_eager and current_platform.is_cpu():
            # Else the first call with logprobs compiles a function for 20 s, and every other call waits.
            os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
        api = api_args(self._config, engine)
        settings = engine.create_engine_config(UsageContext.OPENAI_API_SERVER)
        # NOTE: blocks this loop until the engine is up. Its children hang on the thread that makes them, so no thread
        # of a pool may.
        self._llm = MeteredLLM.from_vllm_config(settings, stat_loggers=[lambda *_: self._gauge])
        try:
            await self._open(self._llm, api)
        except BaseException:
            await self.stop()
            raise

    async def _open(self, llm: MeteredLLM, api: Namespace) -> None:
        tasks = await llm.get_supported_tasks()
        inner = build_app(api, tasks, llm.model_config)
        await init_app_state(llm, inner.state, api, tasks)
        # vLLM tells its server to exit when the engine dies; ours is told by check_health.
        inner.state.server = SimpleNamespace(should_exit=False)
        self._state = inner.state
        self.limits = Limits(llm.model_config.max_model_len, llm.vllm_config.scheduler_config.max_num_seqs)

        async def metered(scope: Scope, receive: Receive, send: Send) -> None:
            call = Call(current.get())
            call_here.set(call)
            try:
                await inner(scope, receive, send)
            finally:
                await asyncio.shield(llm.leave(call))

        # vLLM's own lifespan does not run: Doors answers those events. Of its work only this is wanted here.
        self.app = Doors(metered, ROUTES)
        freeze_gc_heap()

    async def stop(self) -> None:
        llm, self._llm, self._state = self._llm, None, None
        if llm is None:
            return
        family = _family(llm)
        # It would take the end of the core for a failure.
        llm.output_handler.cancel()
        await asyncio.gather(llm.output_handler, return_exceptions=True)
        await asyncio.to_thread(llm.shutdown, _STOP_S)
        _, alive = await asyncio.to_thread(psutil.wait_procs, family, _STOP_S)
        for process in alive:
            process.kill()

    async def check_health(self) -> None:
        if self._llm is None:
            raise EngineDied("the engine does not run")
        try:
            await self._llm.check_health()
        except EngineDeadError as death:
            raise EngineDied(str(death)) from death

    def load(self) -> Load:
        # The scheduler's figures stand still while nothing runs; the requests that this side holds are always right.
        held = self._llm.get_num_unfinished_requests() if self._llm else 0
        waiting = min(self._gauge.waiting, held)
        return Load(held - waiting, waiting, self._gauge.kv_use if held else 0.0)

    async def load_adapter(self, adapter: Adapter) -> None:
        wanted = LoadLoRAAdapterRequest(lora_name=adapter.version, lora_path=adapter.path)
        answer = await self._running_state().openai_serving_models.load_lora_adapter(wanted)
        if isinstance(answer, ErrorResponse):
            reason = answer.error.message
            raise ValueError(f"vLLM refuses the adapter {adapter.version}: {reason}")  # noqa: TRY004 - vLLM returns errors

    async def unload_adapter(self, version: str) -> None:
        state = self._running_state()
        known = state.openai_serving_models.lora_requests.get(version)
        if known is None:
            raise ValueError(f"no adapter {version} is loaded")
        await state.openai_serving_models.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=version))
        # Unloading drops only the name; the weights stay in their slot until they are removed by number.
        await state.engine_client.remove_lora(known.lora_int_id)

    def _running_state(self) -> Any:
        if self._state is None:
            raise EngineDied("the engine does not run")
        return self._state

    def metrics(self) -> bytes:
        registry = CollectorRegistry()
        registry.register(_OwnMetrics())
        return generate_latest(registry)


def _family(llm: MeteredLLM) -> list[psutil.Process]:
    """The engine's processes: cores and all that they started."""
    family = []
    for core in llm.engine_core.resources.engine_manager.processes:
        try:
            process = psutil.Process(core.pid)
            family += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue  # it died before us
    return family
