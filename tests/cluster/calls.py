"""What clients of a running Themis do, and what each of their calls came to."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import aiohttp

from tests.cluster.running import Cluster

PROMPT = "Tell me of rivers."


@dataclass
class Answer:
    """One call's outcome. `events` are a stream's, as JSON; `whole`: it came to its end in order."""

    status: int
    headers: Mapping[str, str]
    events: list[Any] = field(default_factory=list)
    whole: bool = False

    @property
    def text(self) -> str:
        return "".join(event["choices"][0]["text"] for event in self.events if event.get("choices"))

    @property
    def error(self) -> str | None:
        """The code of the error that the caller was told."""
        codes = [event["error"]["code"] for event in self.events if "error" in event]
        return codes[0] if codes else None


async def call(
    session: aiohttp.ClientSession,
    cluster: Cluster,
    tokens: int,
    *,
    stream: bool,
    model: str = "sim",
    began: Callable[[], object] = lambda: None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Answer:
    """One completion of exactly so many tokens, to its end. `began` is called at each event."""
    payload = {"model": model, "prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True, "stream": stream}
    url = f"{cluster.url}/v1/completions"
    async with session.post(url, json=payload, headers={**cluster.headers, **headers}) as response:
        answer = Answer(response.status, response.headers)
        if response.content_type != "text/event-stream":
            text = await response.text()
            answer.events = [json.loads(text) if response.content_type == "application/json" else text]
            answer.whole = True
            return answer
        with suppress(aiohttp.ClientPayloadError):  # cut off: then `whole` stays false
            async for line in response.content:
                if line == b"data: [DONE]\n":
                    answer.whole = True
                elif line.startswith(b"data: "):
                    answer.events.append(json.loads(line.removeprefix(b"data: ")))
                    began()
        return answer


@asynccontextmanager
async def running_stream(
    session: aiohttp.ClientSession, cluster: Cluster, tokens: int, **more: Any
) -> AsyncGenerator["asyncio.Task[Answer]", None]:
    """A stream whose first token has come; abandoned at the end of the block, if it still runs then."""
    began = asyncio.Event()
    task = asyncio.create_task(call(session, cluster, tokens, stream=True, began=began.set, **more))
    try:
        await asyncio.wait([task, waiting := asyncio.create_task(began.wait())], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def steady_load(session: aiohttp.ClientSession, cluster: Cluster) -> AsyncGenerator[list[Answer], None]:
    """A few clients that call again and again, half of them streaming, for the length of the block."""
    answers: list[Answer] = []
    over = asyncio.Event()

    async def client(*, stream: bool) -> None:
        while not over.is_set():
            answers.append(await call(session, cluster, 10 if stream else 4, stream=stream))

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(client(stream=number % 2 == 0))
        yield answers
        over.set()
