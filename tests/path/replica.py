"""One replica in a process of its own: `python -m tests.path.replica POOL_JSON NAME SECRET`; prints its report."""

import asyncio
import json
import sys
from dataclasses import asdict

from deployments.config import PoolConfig
from deployments.server import ReplicaServer


async def main() -> None:
    server = ReplicaServer(PoolConfig.model_validate_json(sys.argv[1]), sys.argv[2], "node", "127.0.0.1")
    server.secrets = (sys.argv[3],)
    await server.start()
    print(json.dumps(asdict(server.report())), flush=True)  # noqa: T201 - the parent reads it
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
