from types import SimpleNamespace
from typing import Any

from deployments.engines.base import Meter
from deployments.engines.metering import Call
from deployments.wire import Usage


def output(choices: dict[int, list[int]], prompt: int = 5, cached: int = 2) -> Any:
    outputs = [SimpleNamespace(index=index, token_ids=ids) for index, ids in choices.items()]
    return SimpleNamespace(prompt_token_ids=[0] * prompt, num_cached_tokens=cached, outputs=outputs)


def state(index: int, ids: list[int]) -> Any:
    return SimpleNamespace(
        request_index=index, prompt_len=5, num_cached_tokens=2, detokenizer=SimpleNamespace(output_token_ids=ids)
    )


def test_deltas_are_counted_as_they_come() -> None:
    meter = Meter("call")
    prompt = Call(meter).enter("id", 1, delta=True)
    prompt.note(output({0: [7]}))
    assert meter.fresh() == {0: [7]}
    prompt.note(output({0: [8, 9]}))
    assert meter.fresh() == {0: [8, 9]}
    assert meter.usage == Usage(prompt=5, cached=2, generated=3)


def test_of_cumulative_outputs_only_new_ids_are_counted() -> None:
    meter = Meter("call")
    prompt = Call(meter).enter("id", 1, delta=False)
    prompt.note(output({0: [7]}))
    prompt.note(output({0: [7, 8, 9]}))
    assert meter.ids == {0: [7, 8, 9]}


def test_choices_are_numbered_across_prompts_whichever_answers_first() -> None:
    meter = Meter("call")
    call = Call(meter)
    first, second = (call.enter(name, 2, delta=True) for name in ("first", "second"))
    second.note(output({1: [4]}))
    first.note(output({0: [1]}))
    second.note(output({0: [3]}))
    first.note(output({1: [2]}))
    assert meter.ids == {0: [1], 1: [2], 2: [3], 3: [4]}
    assert meter.usage.prompt == 10


def test_what_was_generated_but_never_handed_on_is_counted_at_the_end_once() -> None:
    meter = Meter("call")
    call = Call(meter)
    prompt = call.enter("id", 2, delta=False)
    prompt.states = [state(0, [1, 2]), state(1, [3])]
    call.settle()
    call.settle()
    assert meter.usage == Usage(prompt=5, cached=2, generated=3)


def test_settling_adds_to_a_stream_what_it_lacks() -> None:
    meter = Meter("call")
    call = Call(meter)
    prompt = call.enter("id", 1, delta=True)
    prompt.states = [state(0, [1, 2, 3])]
    prompt.note(output({0: [1]}))
    prompt.note(output({0: [2]}))
    call.settle()
    assert meter.ids == {0: [1, 2, 3]}


def test_a_prompt_that_never_produced_a_token_costs_nothing() -> None:
    meter = Meter("call")
    call = Call(meter)
    call.enter("id", 1, delta=True).states = [state(0, [])]
    call.settle()
    assert meter.usage == Usage()


def test_a_call_without_a_meter_is_served_all_the_same() -> None:
    call = Call(None)
    call.enter("id", 1, delta=True).note(output({0: [1]}))
    call.settle()
