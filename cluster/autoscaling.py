"""How many replicas a pool gets. Runs inside Serve's controller loop, so it never blocks.

Serve sees none of the relayed calls; each replica reports its own (`record_autoscaling_stats`).
"""

import math
from typing import Any

_TARGET_USE = 0.7  # of all slots in use; above it replicas are added


def by_slots(context: Any) -> tuple[int, dict[str, Any]]:
    """Serve's autoscaling policy (ray.serve.config.AutoscalingContext): enough replicas for the calls in hand."""
    calls = sum(context.aggregated_metrics.get("calls", {}).values())
    slots = sum(context.aggregated_metrics.get("slots", {}).values())
    running = len(context.aggregated_metrics.get("slots", {}))
    if not running or not slots:
        # Nothing reports at zero replicas; a caller that waits wakes the pool with one handle call.
        return max(context.target_num_replicas, int(context.total_queued_requests > 0)), {}
    wanted = math.ceil(calls / (slots / running * _TARGET_USE))
    return max(wanted, 1 if calls else 0), {}
