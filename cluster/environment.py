"""The environment in which Ray and Serve start locally. Their flags are read when ray.serve is imported."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster.processes import mark
from cluster.state import StateFolder
from deployments.config import GatewayConfig

_HAPROXY_PORTS = {
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
}

# A reload of HAProxy ends streams that are older than its hard stop; so much longer than the longest call it is.
_HARD_STOP_MARGIN_S = 30
_SERVES_HARD_STOP_S = 120


def wants_haproxy() -> bool:
    return os.environ.get("THEMIS_HAPROXY", "1") != "0"


def set_flags(state: StateFolder, scratch: Path, *, haproxy: bool) -> None:
    """All flags that no config changes; before ray.serve is imported. What the caller's environment sets, stays."""
    os.environ.update(mark(state.path))
    os.environ.update(_haproxy_files(scratch))
    set_access(state)
    os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1" if haproxy else "0"
    for name, value in {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Clusters keep Serve's 30 s, for load balancers that learn late; here Ctrl-C must end within 20 s.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Under `uv run` Ray would copy the working folder and build another environment.
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }.items():
        os.environ.setdefault(name, value)


def set_access(state: StateFolder) -> None:
    """What every driver of the local Ray needs, before ray is imported."""
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(state.ray_token())
    # Despite its name: 0 lets a node keep the loopback address that it is given, so that nothing of Ray listens
    # elsewhere; and a driver would otherwise look for it at another one.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def set_limits(gateway: GatewayConfig) -> None:
    """The flags that follow from the config; before Ray starts."""
    hard_stop_s = math.ceil(max(gateway.deadline_s, gateway.drain_s)) + _HARD_STOP_MARGIN_S
    os.environ.setdefault("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", str(hard_stop_s))


def lacking(gateway: GatewayConfig, environ: Mapping[str, str]) -> Iterator[str]:
    """What the flags lack of a Ray that `themis up` did not start, and what that costs."""
    if "RAY_SERVE_ENABLE_HA_PROXY" not in environ:
        yield "RAY_SERVE_ENABLE_HA_PROXY=1 is not set: clients go through Serve's slow proxy (0 chooses it knowingly)"
    elif environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1":
        stop_s = int(environ.get("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", _SERVES_HARD_STOP_S))
        longest_s = math.ceil(max(gateway.deadline_s, gateway.drain_s))
        if stop_s < longest_s:
            yield f"RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S is {stop_s}, less than the {longest_s} s that a call may take"
    if environ.get("RAY_SERVE_THROUGHPUT_OPTIMIZED") != "1":
        yield "RAY_SERVE_THROUGHPUT_OPTIMIZED=1 is not set: every call costs several times the CPU"


def haproxy_ports() -> tuple[int, ...]:
    """The ports that Serve takes for HAProxy, beside the address that it serves."""
    return tuple(int(os.environ.get(name, default)) for name, default in _HAPROXY_PORTS.items())


def _haproxy_files(scratch: Path) -> dict[str, str]:
    # In a folder of our own: its admin socket is open to every user who can reach it.
    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(scratch / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(scratch / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(scratch / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(scratch),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(scratch / "server-state"),
    }
