"""LiteLLM's proxy (https://github.com/BerriAI/litellm): in Python; checks a key and translates.

Malicious releases of it were published in 2026 (1.82.7 and 1.82.8; 1.107.0 is reported, too, and gone from PyPI). So
the version is exact, its hash and those of all it needs are in the lock, and it runs only in its own environment.
"""

import json
from collections.abc import Sequence

from benchmarks.peers.peer import Peer, Place

_KEY = "sk-bench"
_MODEL = "sim"


def _command(place: Place) -> Sequence[str]:
    upstream = {"model": f"hosted_vllm/{_MODEL}", "api_base": f"{place.upstream}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": _MODEL, "litellm_params": upstream}],
        "general_settings": {"master_key": _KEY},
    }
    (place.folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    return (
        *("litellm", "--config", str(place.folder / "config.yaml"), "--telemetry", "False"),
        *("--host", "127.0.0.1", "--port", str(place.port), "--num_workers", "1"),
    )


PEER = Peer(
    "litellm",
    "1.106.0",
    "checks one key and translates; no policy, quota or audit as started",
    _command,
    ready="/health/liveliness",
    headers={"authorization": f"Bearer {_KEY}"},
    # Its price list would otherwise be fetched from the internet; errors only, as for the others.
    environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
)
