from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.config import load
from deployments.config import PoolConfig, Resources
from deployments.placement import serve_options

MANIFEST = Path(__file__).parents[2] / "cluster" / "manifests" / "gpu_config.yaml"
LABEL = "ray.io/accelerator-type"

# Importing ray.serve warns of Ray's own use of pydantic.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments:DeprecationWarning")


class Replica:
    """Stands in for what Serve would place."""


def pool(engine: dict[str, Any] | None = None, args: dict[str, Any] | None = None, **resources: Any) -> PoolConfig:
    engine = engine or {"kind": "vllm", "model": "m", "args": args or {}}
    return PoolConfig.model_validate({"name": "m", "engine": engine, "resources": resources})


def placed(config: PoolConfig) -> dict[str, Any]:
    """The options, once Serve itself has accepted them."""
    from ray import serve

    options = serve_options(config)
    serve.deployment()(Replica).options(**options)
    return options


@pytest.mark.parametrize(
    "engine", [{"kind": "simulated"}, {"kind": "openai", "url": "https://api.example/v1", "model": "m"}]
)
def test_an_engine_without_weights_takes_cpus_only(engine: dict[str, Any]) -> None:
    assert placed(pool(engine, cpus=0.5)) == {"ray_actor_options": {"num_cpus": 0.5}}


def test_an_engine_without_weights_refuses_gpus() -> None:
    with pytest.raises(ValueError, match="simulated takes no GPU"):
        serve_options(pool({"kind": "simulated"}, accelerator="L4"))


def test_a_vllm_pool_that_asks_for_no_gpu_runs_on_cpus() -> None:
    assert placed(pool(cpus=2, memory_gib=4)) == {"ray_actor_options": {"num_cpus": 2, "memory": 4 << 30}}


def test_an_accelerator_means_one_gpu_of_a_node_with_that_label() -> None:
    assert placed(pool(cpus=2, accelerator="L4")) == {
        "ray_actor_options": {"num_cpus": 2, "num_gpus": 1, "label_selector": {LABEL: "L4"}}
    }


def test_a_small_model_takes_a_share_of_any_gpu() -> None:
    assert placed(pool(gpus_per_worker=0.25)) == {"ray_actor_options": {"num_cpus": 1, "num_gpus": 0.25}}


def test_tensor_parallel_workers_share_one_node() -> None:
    options = placed(pool(args={"tensor_parallel_size": 4}, cpus=8, memory_gib=1, accelerator="H100"))
    assert options == {
        "ray_actor_options": {"num_cpus": 8, "memory": 1 << 30},
        "placement_group_bundles": [{"CPU": 8, "GPU": 1, "memory": 1 << 30}] + [{"GPU": 1}] * 3,
        "placement_group_strategy": "STRICT_PACK",
        "placement_group_bundle_label_selector": [{LABEL: "H100"}] * 4,
    }


def test_pipeline_stages_may_cross_nodes() -> None:
    options = placed(pool(args={"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, gpus_per_worker=1))
    assert options["placement_group_strategy"] == "PACK"
    assert len(options["placement_group_bundles"]) == 4
    assert "placement_group_bundle_label_selector" not in options


def test_workers_that_ray_does_not_see_are_the_replicas_own() -> None:
    args = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    assert placed(pool(args=args, gpus_per_worker=1)) == {"ray_actor_options": {"num_cpus": 1, "num_gpus": 2}}
    assert placed(pool(args=args, cpus=4)) == {"ray_actor_options": {"num_cpus": 4}}


def test_the_engines_environment_is_set_before_the_replica_imports_anything() -> None:
    options = placed(pool({"kind": "vllm", "model": "m", "env": {"HF_HOME": "/models"}}))
    assert options["ray_actor_options"]["runtime_env"] == {"env_vars": {"HF_HOME": "/models"}}


@pytest.mark.parametrize(
    ("args", "resources", "reason"),
    [
        ({"tensor_parallel_size": 2}, {}, "2 workers need GPUs"),
        ({"tensor_parallel_size": 2}, {"accelerator": "H100", "gpus_per_worker": 0.5}, "cannot share GPUs"),
        ({"data_parallel_size": 2}, {"accelerator": "H100"}, "set replicas instead"),
    ],
)
def test_what_contradicts_itself_is_refused(args: dict[str, Any], resources: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        serve_options(pool(args=args, **resources))


def test_gpus_per_worker_is_at_most_one() -> None:
    with pytest.raises(ValidationError, match="gpus_per_worker"):
        Resources(gpus_per_worker=2)


def manifest_pools() -> dict[str, PoolConfig]:
    return {pool.name: pool for pool in load(MANIFEST).themis.pools}


def test_the_gpu_manifest_places_a_tensor_parallel_pool_on_one_node() -> None:
    options = placed(manifest_pools()["llama-70b"])
    assert options["placement_group_bundles"] == [{"CPU": 8, "GPU": 1, "memory": 64 << 30}] + [{"GPU": 1}] * 3
    assert options["placement_group_strategy"] == "STRICT_PACK"
    assert options["placement_group_bundle_label_selector"] == [{LABEL: "H100"}] * 4
    assert manifest_pools()["llama-70b"].replicas.max == 4


def test_the_gpu_manifest_puts_two_small_replicas_on_one_gpu() -> None:
    options = placed(manifest_pools()["qwen-1.5b"])
    assert options == {"ray_actor_options": {"num_cpus": 2, "num_gpus": 0.5, "label_selector": {LABEL: "L4"}}}
