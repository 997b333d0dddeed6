"""What `themis status` shows: pools, replicas, calls running and waiting, as the Directory knows them.

State prints itself: `render` is for people, `collect` for tools.
"""

from typing import Any

import ray

from cluster.directory import NAME, NAMESPACE
from policies.roster import Snapshot


async def collect() -> dict[str, Any]:
    """Asks the Directory of the Ray cluster that this process is in. Raises LookupError when there is none."""
    try:
        actor = ray.get_actor(NAME, namespace=NAMESPACE)
    except ValueError:
        raise LookupError("No Themis runs on this Ray cluster.") from None
    return describe(await actor.snapshot.remote())


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """One entry per pool; `waiting` counts calls in gateways and in replicas."""
    names = {replica.pool for replica in snapshot.replicas} | {
        name for gateway in snapshot.gateways for name in gateway.waiting
    }
    return {
        "gateways": [
            {"id": gateway.id, "active": gateway.active, "waiting": sum(gateway.waiting.values())}
            for gateway in snapshot.gateways
        ],
        "pools": {name: _pool(name, snapshot) for name in sorted(names)},
    }


def _pool(name: str, snapshot: Snapshot) -> dict[str, Any]:
    replicas = [replica for replica in snapshot.replicas if replica.pool == name]
    return {
        "ready": sum(replica.healthy and not replica.draining for replica in replicas),
        "running": sum(replica.running for replica in replicas),
        "waiting": sum(replica.waiting for replica in replicas)
        + sum(gateway.waiting.get(name, 0) for gateway in snapshot.gateways),
        "replicas": [
            {
                "id": replica.id,
                "node": replica.node,
                "address": replica.address,
                "state": "dead" if not replica.healthy else "draining" if replica.draining else "ready",
                "running": replica.running,
                "waiting": replica.waiting,
                "slots": replica.slots,
                "kv_use": replica.kv_use,
                "adapters": dict(replica.adapters),
            }
            for replica in replicas
        ],
    }
