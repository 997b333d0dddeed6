"""What gateways and replicas count, in Prometheus' terms (https://prometheus.io/docs/practices/naming/)."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from deployments.wire import Usage

CONTENT_TYPE = CONTENT_TYPE_LATEST
STAGES = ("identity", "wait", "connect", "first_token", "stream")
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class GatewayMetrics:
    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.calls = Counter(
            "themis_calls", "Calls that ended, by how.", ("endpoint", "model", "ending"), registry=self.registry
        )
        self.tokens = Counter(
            "themis_tokens", "Tokens that engines counted.", ("model", "kind"), registry=self.registry
        )
        self.attempts = Counter(
            "themis_attempts", "Attempts at a replica, by how they ended.", ("model", "outcome"), registry=self.registry
        )
        stage = Histogram(
            "themis_stage_seconds",
            "Time of each stage of a call: identity and parsing, wait for a slot, connection to the replica until its "
            "headers, first token since arrival, stream since the first token.",
            ("stage",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.stages = {name: stage.labels(name) for name in STAGES}
        self.duration = Histogram(
            "themis_call_seconds", "Arrival to end.", ("endpoint",), buckets=_BUCKETS, registry=self.registry
        )
        self.active = Gauge("themis_active_calls", "Calls between arrival and end.", registry=self.registry)
        self.waiting = Gauge("themis_waiting_calls", "Calls that wait for a slot.", ("pool",), registry=self.registry)
        self.replicas = Gauge("themis_known_replicas", "Replicas in the snapshot.", ("pool",), registry=self.registry)
        self.snapshot_age = Gauge(
            "themis_snapshot_age_seconds", "Since the Directory last answered this gateway.", registry=self.registry
        )

    def render(self) -> bytes:
        return generate_latest(self.registry)


class ShellMetrics:
    """What a replica's shell counts, beside its engine's own metrics."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.tokens = Counter("themis_replica_tokens", "Tokens, by kind.", ("kind",), registry=self.registry)
        self.calls = Counter(
            "themis_replica_calls", "Calls that ended, by whether the answer was sent whole.", ("whole",),
            registry=self.registry,
        )  # fmt: skip
        self.refused = Counter(
            "themis_replica_refused", "Calls refused because slots and queue were full.", registry=self.registry
        )
        self.running = Gauge("themis_replica_running", "Calls in the engine.", registry=self.registry)
        self.waiting = Gauge("themis_replica_waiting", "Calls in the admission queue.", registry=self.registry)

    def count(self, usage: Usage, *, whole: bool) -> None:
        self.tokens.labels("prompt").inc(usage.prompt)
        self.tokens.labels("cached").inc(usage.cached)
        self.tokens.labels("generated").inc(usage.generated)
        self.calls.labels(str(whole).lower()).inc()

    def render(self, running: int, waiting: int) -> bytes:
        self.running.set(running)
        self.waiting.set(waiting)
        return generate_latest(self.registry)
