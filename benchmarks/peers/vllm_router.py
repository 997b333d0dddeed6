"""vllm-router (https://github.com/vllm-project/router): in Rust; chooses a worker and relays."""

from collections.abc import Sequence

from benchmarks.peers.peer import Peer, Place


def _command(place: Place) -> Sequence[str]:
    return (
        *("vllm-router", "--worker-urls", place.upstream, "--policy", "round_robin"),
        *("--host", "127.0.0.1", "--port", str(place.port), "--log-level", "error"),
        *("--prometheus-port", str(place.metrics_port)),
    )


PEER = Peer("vllm-router", "0.1.17", "relays; no identity, policy, quota or audit", _command, ready="/health")
