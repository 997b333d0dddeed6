"""The simulated engine: an Engine of this process with reproducible tokens and a timing model instead of weights."""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from starlette.types import ASGIApp

from deployments.config import Fault, SimulatedEngine
from deployments.engines.base import Adapter, EngineDied, Limits, Load, Meter, current
from deployments.engines.simulated.answers import Answer
from deployments.engines.simulated.api import Api
from deployments.engines.simulated.batch import Batch
from deployments.engines.simulated.call import Call
from deployments.engines.simulated.choice import Choice
from deployments.engines.simulated.faults import Script
from deployments.engines.simulated.metrics import Counts, exposition
from deployments.engines.simulated.requests import Plan
from deployments.engines.simulated.tokens import VOCABULARY, decode
from deployments.engines.simulated.weights import Weights
from policies.clock import Clock, SystemClock
from policies.errors import ClientGone, EngineFailed, InvalidRequest, UnknownModel

_ABORTS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Abort:
    """One aborted call: when the engine noticed, when the slot was free, and the tokens it had generated."""

    call: str
    noticed: float
    freed: float
    generated: int


class Simulated:
    """Mutable state: adapters by version, open calls, the script of faults, and counts."""

    def __init__(
        self,
        config: SimulatedEngine,
        model: str,
        clock: Clock | None = None,
        die: Callable[[int], object] = os._exit,
    ) -> None:
        """`die` ends the process when a fault says so."""
        if config.kv_blocks * config.block_tokens < config.max_model_len:
            capacity = config.kv_blocks * config.block_tokens
            raise ValueError(f"the KV cache holds {capacity} tokens, less than max_model_len ({config.max_model_len})")
        self.app: ASGIApp = Api(self)
        self.limits = Limits(config.max_model_len, config.max_running)
        self.aborts: deque[Abort] = deque(maxlen=_ABORTS_KEPT)
        self._config = config
        self._model = model
        self._clock = clock or SystemClock()
        self._die = die
        self._weights = {model: Weights(config.seed, model)}
        self._script = Script(config.faults)
        self._counts = Counts()
        self._batch = Batch(config, self._clock, self._counts.add)
        self._calls: set[Call] = set()
        self._running = False
        self._created = int(self._clock.wall())

    def __repr__(self) -> str:
        load = self.load()
        return f"<Simulated {self._model} [calls: {load.running} running, {load.waiting} waiting]>"

    async def start(self) -> None:
        if not self._running:
            await asyncio.sleep(self._config.start_ms / 1000)
            self._running = True

    async def stop(self) -> None:
        self._running = False
        for call in list(self._calls):
            call.end(EngineFailed("the engine was stopped"))
            self._batch.remove(call)
        self._batch.stop()

    async def check_health(self) -> None:
        if not self._running:
            raise EngineDied("the simulated engine is not running")

    def load(self) -> Load:
        scheduler = self._batch.scheduler
        return Load(len(scheduler.running), len(scheduler.waiting), scheduler.blocks.use)

    async def load_adapter(self, adapter: Adapter) -> None:
        """Any folder will do: an adapter's version alone decides what it says."""
        if not self._config.adapter_slots:
            raise ValueError("this engine has no adapter slots")
        if not adapter.version or adapter.version == self._model:
            raise ValueError(f"'{adapter.version}' cannot be the name of an adapter of {self._model}")
        ready = self._batch.scheduler.slots.ensure(adapter.version, self._clock.now())
        if ready is not None:
            await asyncio.sleep(ready - self._clock.now())
        self._weights[adapter.version] = Weights(self._config.seed, self._model, adapter.version)

    async def unload_adapter(self, version: str) -> None:
        if version != self._model and version in self._weights:
            del self._weights[version]
            self._batch.scheduler.slots.drop(version)

    def metrics(self) -> bytes:
        return exposition(self._counts, self.load())

    @contextmanager
    def admit(self, plan: Plan) -> Generator[tuple[Call, Answer]]:
        """A call for the time of the block; every ending frees what it holds."""
        if not self._running:
            raise EngineFailed("the engine is not running")
        call = self._open(plan)
        answer = Answer(call, plan.model, int(self._clock.wall()))
        self._calls.add(call)
        self._counts.calls += 1
        self._batch.submit(call)
        try:
            yield call, answer
        finally:
            if call in self._calls and not call.finished:
                self._abort(call)
            self._calls.discard(call)
            call.report()

    def abort(self, call: Call) -> None:
        if call in self._calls and not call.finished:
            call.end(ClientGone("the client left"))
            self._abort(call)

    def models(self) -> Mapping[str, Any]:
        shared = {"object": "model", "created": self._created, "owned_by": "themis"}
        base = {"id": self._model, **shared, "root": self._model, "max_model_len": self._config.max_model_len}
        adapters = [
            {"id": version, **shared, "root": version, "parent": self._model}
            for version in self._weights
            if version != self._model
        ]
        return {"object": "list", "data": [base, *adapters]}

    def state(self) -> Mapping[str, Any]:
        load = self.load()
        aborts = [asdict(abort) for abort in self.aborts]
        counts = {"calls": self._counts.calls, "generated": self._counts.generated}
        return {**asdict(load), **counts, "aborts": aborts}

    def script(self, faults: tuple[Fault, ...]) -> None:
        self._script = Script(faults)

    def crash(self) -> None:
        self._die(1)

    def _abort(self, call: Call) -> None:
        noticed = self._clock.now()
        self._calls.discard(call)
        self._batch.remove(call)
        self._counts.aborted += 1
        self.aborts.append(Abort(call.call_id, noticed, self._clock.now(), call.generated))

    def _open(self, plan: Plan) -> Call:
        weights = self._weights.get(plan.model)
        if weights is None:
            raise UnknownModel(f"The model `{plan.model}` does not exist.", param="model")
        meter = current.get()
        adapter = None if plan.model == self._model else plan.model
        limits = [self._room(plan, prompt) for prompt in plan.prompts]
        choices = [
            _ruled(Choice(plan, weights, adapter, number, limits[number // plan.n]), meter)
            for number in range(len(plan.prompts) * plan.n)
        ]
        fault = self._script.pick("\n".join(map(decode, plan.prompts))) if self._script.armed else None
        return Call(plan, choices, meter, fault)

    def _room(self, plan: Plan, prompt: list[int]) -> int:
        """How many tokens may be generated after this prompt."""
        longest = self._config.max_model_len
        if not 0 <= min(prompt) <= max(prompt) < VOCABULARY:
            raise InvalidRequest(f"Token ids of the prompt must be from 0 to {VOCABULARY - 1}.", param="prompt")
        if len(prompt) + (plan.max_tokens or 1) > longest:
            asked = f"{len(prompt)} tokens of prompt and {plan.max_tokens or 'at least 1'} of answer"
            message = f"This model's maximum context length is {longest} tokens. However, you requested {asked}."
            raise InvalidRequest(message, param="messages" if plan.chat else "prompt")
        return plan.max_tokens or longest - len(prompt)


def _ruled(choice: Choice, meter: Meter | None) -> Choice:
    """Order and cache salt are the gateway's where there is one, else the request's own."""
    if meter is not None:
        choice.priority = meter.priority
        choice.root = hash((choice.root, meter.salt))
    return choice
