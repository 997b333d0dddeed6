"""The simulated engine's counts, in Prometheus text. Named like vLLM's where they mean the same."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from deployments.engines.base import Load


@dataclass(slots=True)
class Counts:
    """Everything since the start. Changed on the engine's loop only."""

    calls: int = 0
    aborted: int = 0
    prompt: int = 0
    generated: int = 0

    def add(self, prompt: int, generated: int) -> None:
        self.prompt += prompt
        self.generated += generated


class _Snapshot(Collector):
    def __init__(self, counts: Counts, load: Load) -> None:
        self._counts = counts
        self._load = load

    def collect(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
        counts, load = self._counts, self._load
        return [
            GaugeMetricFamily("simulated:num_requests_running", "Sequences in the batch.", load.running),
            GaugeMetricFamily("simulated:num_requests_waiting", "Sequences that wait for it.", load.waiting),
            GaugeMetricFamily("simulated:kv_cache_usage_perc", "Used share of the KV cache, 0 to 1.", load.kv_use),
            CounterMetricFamily("simulated:prompt_tokens", "Prompt tokens taken in.", counts.prompt),
            CounterMetricFamily("simulated:generation_tokens", "Tokens generated.", counts.generated),
            CounterMetricFamily("simulated:requests", "Calls taken in.", counts.calls),
            CounterMetricFamily("simulated:requests_aborted", "Calls aborted.", counts.aborted),
        ]


def exposition(counts: Counts, load: Load) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Snapshot(counts, load))
    return generate_latest(registry)
