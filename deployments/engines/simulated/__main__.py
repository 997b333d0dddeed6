"""`python -m deployments.engines.simulated`: the simulated engine alone, for laptops and benchmarks."""

import argparse
import asyncio
import socket
import sys

import uvicorn
import uvloop

from deployments.config import SimulatedEngine
from deployments.engines.simulated.engine import Simulated


class _Announcing(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                sys.stdout.write(f"ready http://{host}:{port}\n")
                sys.stdout.flush()


async def _serve(arguments: argparse.Namespace) -> None:
    engine = Simulated(SimulatedEngine.model_validate_json(arguments.config), arguments.model)
    await engine.start()
    settings = uvicorn.Config(
        engine.app, arguments.host, arguments.port, lifespan="off", access_log=False, log_level="error"
    )
    try:
        await _Announcing(settings).serve()
    finally:
        await engine.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deployments.engines.simulated", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--model", default="simulated")
    parser.add_argument("--config", default="{}", help="the engine's config as JSON")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
