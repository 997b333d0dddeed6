"""How many replicas a pool gets. Runs inside Serve's controller loop, so it never blocks.

Serve sees none of the relayed calls; each replica reports its own (`record_autoscaling_stats`).
"""

import math
from typing import Any

_TARGET_USE = 0.7  # of all slots in use; above it replicas are added


def by_slots(context: Any) -> tuple[int, dict[str, Any]]:
    """Serve's autoscaling policy (ray.serve.config.AutoscalingContext): enough replicas for the calls in hand.

    Bounds and delays are Serve's. While no replica reports, the target stays what it is.
    """
    calls = context.aggregated_metrics.get("calls", {})
    slots = context.aggregated_metrics.get("slots", {})
    if not slots:
        return context.target_num_replicas, {}
    per_replica = sum(slots.values()) / len(slots)
    return max(1, math.ceil(sum(calls.values()) / (per_replica * _TARGET_USE))), {}
