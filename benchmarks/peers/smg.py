"""smg, the Shepherd Model Gateway (https://github.com/lightseekorg/smg): in Rust; chooses a worker and relays."""

from collections.abc import Sequence

from benchmarks.peers.peer import Peer, Place


def _command(place: Place) -> Sequence[str]:
    return (
        *("smg", "launch", "--worker-urls", place.upstream, "--policy", "round_robin"),
        *("--host", "127.0.0.1", "--port", str(place.port), "--log-level", "error"),
        *("--prometheus-port", str(place.metrics_port)),
    )


PEER = Peer("smg", "1.13.0", "relays; no identity, policy, quota or audit as started", _command, ready="/readiness")
