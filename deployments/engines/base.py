"""What a replica asks of an engine, and what an engine tells the shell about each call.

An engine serves the OpenAI API as an ASGI app. The shell around that app sets `current` for the time of one call;
an engine that generates in this process reports to the meter it finds there. Contextvars carry it into every task
that the engine's app starts for the call.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from starlette.types import ASGIApp

from deployments.wire import Usage


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine can take.

    max_model_len: tokens of prompt and answer together.
    max_running: calls in one batch.
    """

    max_model_len: int
    max_running: int


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an engine is. `kv_use` is the used share of the KV cache, 0 to 1."""

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0


@dataclass(frozen=True, slots=True)
class Adapter:
    """One immutable adapter version as an engine loads it: its id (`name@digest`) and its folder."""

    version: str
    path: str


@dataclass(slots=True)
class Meter:
    """Counts one call's tokens and keeps the ids it generated, whatever API asked for them.

    `priority` (lower is earlier) and `salt` are the gateway's, for the engine to apply.
    Mutable state: `prompt`, `cached`, `_ids`, `_fresh`, `_billed`; changed by the three reporting methods only, on the
    engine's loop (and `_fresh` by whoever takes it).
    """

    call_id: str
    priority: int = 0
    salt: str | None = None
    prompt: int = 0
    cached: int = 0
    _ids: dict[int, list[int]] = field(default_factory=dict)
    _fresh: dict[int, list[int]] = field(default_factory=dict)
    _billed: Usage | None = None

    def prompted(self, tokens: int, cached: int = 0) -> None:
        """A prompt of that many tokens entered the engine, so many of them from its cache."""
        self.prompt += tokens
        self.cached += cached

    def generated(self, choice: int, ids: Sequence[int]) -> None:
        """New token ids of one choice. With several prompts, `choice` is prompt number * n + index."""
        if ids:
            self._ids.setdefault(choice, []).extend(ids)
            self._fresh.setdefault(choice, []).extend(ids)

    def billed(self, usage: Usage) -> None:
        """The whole call's usage, from an engine that tells only that (a remote one)."""
        self._billed = usage

    def fresh(self) -> dict[int, list[int]]:
        """The ids reported since the last time of asking."""
        fresh, self._fresh = self._fresh, {}
        return fresh

    @property
    def ids(self) -> Mapping[int, list[int]]:
        return self._ids

    @property
    def usage(self) -> Usage:
        return self._billed or Usage(self.prompt, self.cached, sum(map(len, self._ids.values())))


current: ContextVar[Meter | None] = ContextVar("current", default=None)


class EngineDied(Exception):
    """The engine will never answer again; its replica must be replaced."""


class Engine(Protocol):
    """One engine process group. `app` is valid between `start` and `stop`; all run on the loop that started it."""

    app: ASGIApp
    limits: Limits

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Ends every process and connection of the engine. Harmless when called twice or before `start`."""
        ...

    async def check_health(self) -> None:
        """Raises EngineDied when the engine will not answer again."""
        ...

    def load(self) -> Load: ...

    async def load_adapter(self, adapter: Adapter) -> None:
        """Makes `adapter.version` a model name of `app`. Raises ValueError when the engine refuses the weights."""
        ...

    async def unload_adapter(self, version: str) -> None: ...

    def metrics(self) -> bytes:
        """The engine's own metrics in Prometheus text format; empty when it has none."""
        ...
