"""What a pool's replica takes of the cluster, as Ray Serve's deployment options. Pure; knows no Ray.

A vLLM replica with several workers gets a placement group of one bundle per worker: the replica itself sits in the
first, and vLLM's Ray executor puts a worker into each. Workers on CPUs, and those of executor `mp`, are processes that
Ray does not see, so the replica's own resources cover them.
"""

from typing import Any

from deployments.config import PoolConfig, Resources, VllmEngine

ACCELERATOR_LABEL = "ray.io/accelerator-type"
_GIB = 1 << 30


def serve_options(pool: PoolConfig) -> dict[str, Any]:
    """Arguments for `deployment.options`. Raises ValueError when engine and resources contradict each other."""
    if not isinstance(pool.engine, VllmEngine):
        _refuse_gpus(pool)
        return {"ray_actor_options": _actor(pool.resources)}
    workers = _workers(pool)
    environment = {"runtime_env": {"env_vars": dict(pool.engine.env)}} if pool.engine.env else {}
    if workers > 1 and pool.engine.args.get("distributed_executor_backend", "ray") == "ray":
        return {"ray_actor_options": _actor(pool.resources) | environment, **_group(pool, workers)}
    actor = _actor(pool.resources) | environment
    if pool.resources.gpus:
        actor["num_gpus"] = pool.resources.gpus * workers
    if pool.resources.accelerator:
        actor["label_selector"] = {ACCELERATOR_LABEL: pool.resources.accelerator}
    return {"ray_actor_options": actor}


def _refuse_gpus(pool: PoolConfig) -> None:
    if pool.resources.gpus or pool.resources.accelerator:
        raise ValueError(f"pool {pool.name}: an engine of kind {pool.engine.kind} takes no GPU")


def _workers(pool: PoolConfig) -> int:
    """How many workers one replica has. Raises ValueError when its resources cannot seat them."""
    assert isinstance(pool.engine, VllmEngine)
    args = pool.engine.args
    if args.get("data_parallel_size", 1) != 1:
        raise ValueError(f"pool {pool.name}: data_parallel_size is not served; set replicas instead")
    workers = int(args.get("tensor_parallel_size", 1)) * int(args.get("pipeline_parallel_size", 1))
    if workers == 1:
        return 1
    gpus = pool.resources.gpus
    if gpus not in (0, 1):
        raise ValueError(f"pool {pool.name}: {workers} workers cannot share GPUs; set resources.gpus_per_worker to 1")
    if gpus == 0 and args.get("distributed_executor_backend") != "mp":
        raise ValueError(
            f"pool {pool.name}: {workers} workers need GPUs; set resources.accelerator or resources.gpus_per_worker, "
            "or engine.args.distributed_executor_backend to mp for workers on the CPUs of one node"
        )
    return workers


def _actor(resources: Resources) -> dict[str, Any]:
    actor: dict[str, Any] = {"num_cpus": resources.cpus}
    if resources.memory_gib:
        actor["memory"] = int(resources.memory_gib * _GIB)
    return actor


def _group(pool: PoolConfig, workers: int) -> dict[str, Any]:
    assert isinstance(pool.engine, VllmEngine)
    worker = {"GPU": pool.resources.gpus}
    first = {"CPU": pool.resources.cpus} | worker
    if pool.resources.memory_gib:
        first["memory"] = int(pool.resources.memory_gib * _GIB)
    piped = pool.engine.args.get("pipeline_parallel_size", 1) > 1
    group: dict[str, Any] = {
        "placement_group_bundles": [first] + [dict(worker) for _ in range(workers - 1)],
        # Tensor parallel workers talk at every layer and need one node's links; pipeline stages may cross nodes.
        "placement_group_strategy": "PACK" if piped else "STRICT_PACK",
    }
    if pool.resources.accelerator:
        label = {ACCELERATOR_LABEL: pool.resources.accelerator}
        group["placement_group_bundle_label_selector"] = [dict(label) for _ in range(workers)]
    return group
