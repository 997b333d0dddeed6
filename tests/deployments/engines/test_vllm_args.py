"""What vLLM is asked for; no engine starts."""

from pathlib import Path

import pytest

from cluster.config import load
from deployments.config import VllmEngine

pytestmark = [
    pytest.mark.vllm,
    # vLLM, Ray and what they import warn of each other.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def test_engine_arguments_have_defaults_that_the_config_overrides() -> None:
    from deployments.engines.vllm import engine_args

    args = engine_args(VllmEngine(model="m", args={"max_loras": 3, "scheduling_policy": "fcfs"}), "public", adapters=9)
    assert (args.model, args.served_model_name) == ("m", ["public"])
    assert (args.scheduling_policy, args.enable_lora, args.max_loras, args.max_cpu_loras) == ("fcfs", True, 3, 9)
    assert not engine_args(VllmEngine(model="m"), "public").enable_lora


def test_unknown_arguments_are_named() -> None:
    from deployments.engines.vllm import api_args, engine_args

    with pytest.raises(ValueError, match="no engine arguments max_modle_len, zzz"):
        engine_args(VllmEngine(model="m", args={"max_modle_len": 1, "zzz": 1}), "m")
    config = VllmEngine(model="m", api_args={"tool_parser": "x"})
    with pytest.raises(ValueError, match="no arguments tool_parser"):
        api_args(config, engine_args(config, "m"))


def test_the_gpu_manifest_yields_a_ray_executor_over_four_workers() -> None:
    from deployments.engines.vllm import api_args, engine_args

    manifest = Path(__file__).parents[3] / "cluster" / "manifests" / "gpu_config.yaml"
    pool = load(manifest).themis.pools[0]
    assert isinstance(pool.engine, VllmEngine)
    args = engine_args(pool.engine, pool.name, len(pool.adapters))
    assert args.model == "meta-llama/Llama-3.3-70B-Instruct"
    assert (args.tensor_parallel_size, args.distributed_executor_backend) == (4, "ray")
    assert (args.enable_lora, args.max_loras, args.max_lora_rank) == (True, 1, 32)
    assert api_args(pool.engine, args).tool_call_parser == "llama3_json"
