"""Whoever runs the cluster, in a process of its own: reads one JSON command a line, answers with one JSON line.

So the process of the tests never imports Ray, whose flags are read at import.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import launch
from cluster.config import load
from cluster.state import StateFolder


def main() -> None:
    launch.connect()
    commands: dict[str, Callable[..., Any]] = {
        "deploy": _deploy,
        "status": _status,
        "secret": _secret,
        "kill_directory": _kill_directory,
        "application": _application,
    }
    _answer("connected")
    for line in sys.stdin:
        name, *args = json.loads(line)
        _answer(commands[name](*args))


def _answer(value: Any) -> None:
    sys.stdout.write(f"answer: {json.dumps(value)}\n")
    sys.stdout.flush()


def _deploy(path: str) -> None:
    """What the launcher did at its start, with another config: Serve updates what runs."""
    launch.deploy(load(Path(path)).with_key(StateFolder.default().local_key_config()))


def _status() -> dict[str, Any]:
    from cluster.status import collect

    return asyncio.run(collect())


def _secret() -> str:
    from cluster.directory import cluster_secret

    return cluster_secret()


def _kill_directory() -> None:
    """Ray restarts it, with nothing in its memory."""
    import ray

    from cluster.directory import NAME, NAMESPACE

    ray.kill(ray.get_actor(NAME, namespace=NAMESPACE), no_restart=False)


def _application() -> dict[str, Any]:
    """Serve's own view: the application's status, and how many replicas of each deployment are in which state."""
    from ray import serve

    app = serve.status().applications["themis"]
    return {"status": app.status, "replicas": {name: each.replica_states for name, each in app.deployments.items()}}


if __name__ == "__main__":
    main()
