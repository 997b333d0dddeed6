"""What an engine answers: chat and completions, whole and streamed, and the usage it reports."""

from typing import Any

import jsonschema
import orjson
import pytest
from openai import AsyncOpenAI

from tests.engines.subjects import Subject

pytestmark = pytest.mark.asyncio(loop_scope="session")

ASK: list[Any] = [{"role": "user", "content": "Tell me about the sea, please."}]
PROMPT = "The sea is"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["colour", "count"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "paint", "description": "Paints.", "parameters": SCHEMA}}


def _metered(subject: Subject) -> tuple[int, int]:
    usage = subject.metering.meters[-1].usage
    return usage.prompt, usage.generated


def _stated(usage: Any) -> tuple[int, int]:
    return usage.prompt_tokens, usage.completion_tokens


async def _chat_stream(client: AsyncOpenAI, **fields: Any) -> list[Any]:
    return [chunk async for chunk in await client.chat.completions.create(stream=True, **fields)]


async def test_a_chat_answers_under_the_models_name(subject: Subject, client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=subject.model, messages=ASK, max_tokens=8)
    assert answer.object == "chat.completion"
    assert answer.model == subject.model
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in {"stop", "length"}


async def test_a_completion_answers_under_the_models_name(subject: Subject, client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model=subject.model, prompt=PROMPT, max_tokens=8)
    assert (answer.object, answer.model) == ("text_completion", subject.model)
    assert answer.choices[0].text


async def test_the_model_is_listed(subject: Subject, client: AsyncOpenAI) -> None:
    assert subject.model in [model.id async for model in client.models.list()]


async def test_a_chats_streamed_text_is_its_whole_text(subject: Subject, client: AsyncOpenAI) -> None:
    fields: dict[str, Any] = {"model": subject.model, "messages": ASK, "max_tokens": 24, "temperature": 0}
    whole = await client.chat.completions.create(**fields)
    chunks = await _chat_stream(client, **fields)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert {chunk.model for chunk in chunks} == {subject.model}
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_completions_streamed_text_is_its_whole_text(subject: Subject, client: AsyncOpenAI) -> None:
    fields: dict[str, Any] = {"model": subject.model, "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    whole = await client.completions.create(**fields)
    chunks = [chunk async for chunk in await client.completions.create(stream=True, **fields)]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


async def test_a_whole_answers_usage_is_what_the_meter_counted(subject: Subject, client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=subject.model, messages=ASK, max_tokens=8)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    assert _stated(answer.usage) == _metered(subject)


async def test_a_streams_usage_is_what_the_meter_counted(subject: Subject, client: AsyncOpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = await _chat_stream(client, model=subject.model, messages=ASK, max_tokens=8, stream_options=options)
    assert chunks[-1].choices == []
    assert _stated(chunks[-1].usage) == _metered(subject)


async def test_usage_not_asked_for_is_not_streamed_but_metered(subject: Subject, client: AsyncOpenAI) -> None:
    fields: dict[str, Any] = {"model": subject.model, "messages": ASK, "max_tokens": 8, "temperature": 0}
    whole = await client.chat.completions.create(**fields)
    chunks = await _chat_stream(client, **fields)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert _metered(subject) == _stated(whole.usage)


async def test_n_choices_are_all_answered_and_counted(subject: Subject, client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=subject.model, messages=ASK, max_tokens=6, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert _stated(answer.usage) == _metered(subject)


async def test_n_choices_are_streamed_apart(subject: Subject, client: AsyncOpenAI) -> None:
    chunks = await _chat_stream(client, model=subject.model, messages=ASK, max_tokens=6, n=2)
    finished = [chunk.choices[0].index for chunk in chunks if chunk.choices[0].finish_reason]
    assert sorted(finished) == [0, 1]


async def test_several_prompts_are_numbered_in_order(subject: Subject, client: AsyncOpenAI) -> None:
    fields: dict[str, Any] = {"model": subject.model, "max_tokens": 6, "temperature": 0}
    both = await client.completions.create(prompt=[PROMPT, "A mountain"], **fields)
    assert [choice.index for choice in both.choices] == [0, 1]
    assert _stated(both.usage) == _metered(subject)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_text_before_it(subject: Subject, client: AsyncOpenAI, stream: bool) -> None:
    fields: dict[str, Any] = {"model": subject.model, "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    text = (await client.completions.create(**fields)).choices[0].text
    stop = text[len(text) // 2 :][:4]
    if stream:
        chunks = [each async for each in await client.completions.create(stream=True, stop=[stop], **fields)]
        stopped, finish = "".join(chunk.choices[0].text for chunk in chunks), chunks[-1].choices[0].finish_reason
    else:
        answer = await client.completions.create(stop=stop, **fields)
        stopped, finish = answer.choices[0].text, answer.choices[0].finish_reason
    assert stopped == text[: text.index(stop)]
    assert finish == "stop"


async def test_a_seed_reproduces_an_answer(subject: Subject, client: AsyncOpenAI) -> None:
    fields: dict[str, Any] = {"model": subject.model, "messages": ASK, "max_tokens": 12, "temperature": 1.0, "seed": 7}
    first, second = [await client.chat.completions.create(**fields) for _ in range(2)]
    assert first.choices[0].message.content == second.choices[0].message.content


async def test_max_tokens_ends_an_answer_for_its_length(subject: Subject, client: AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model=subject.model, prompt=PROMPT, max_tokens=3, extra_body={"min_tokens": 3}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_a_json_schema_is_kept(subject: Subject, client: AsyncOpenAI) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "paint", "schema": SCHEMA, "strict": True}}
    answer = await client.chat.completions.create(
        model=subject.model, messages=ASK, max_tokens=200, response_format=wanted
    )
    jsonschema.validate(orjson.loads(answer.choices[0].message.content or ""), SCHEMA)


async def test_a_required_tool_is_called(subject: Subject, client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=subject.model, messages=ASK, max_tokens=200, tools=[TOOL], tool_choice="required"
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "paint"
    jsonschema.validate(orjson.loads(call.function.arguments), SCHEMA)


async def test_a_named_tools_call_is_streamed(subject: Subject, client: AsyncOpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "paint"}}
    chunks = await _chat_stream(
        client, model=subject.model, messages=ASK, max_tokens=200, tools=[TOOL], tool_choice=named
    )
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [call.function.name for call in calls if call.function.name] == ["paint"]
    jsonschema.validate(orjson.loads("".join(call.function.arguments or "" for call in calls)), SCHEMA)


async def test_a_chats_logprobs_name_each_token_and_its_rivals(subject: Subject, client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=subject.model, messages=ASK, max_tokens=4, logprobs=True, top_logprobs=2
    )
    assert answer.choices[0].logprobs is not None
    tokens = answer.choices[0].logprobs.content or []
    assert answer.usage is not None
    assert len(tokens) == answer.usage.completion_tokens
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


async def test_a_completions_logprobs_are_parallel_lists(subject: Subject, client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model=subject.model, prompt=PROMPT, max_tokens=4, logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    lists: list[Any] = [logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset]
    assert answer.usage is not None
    assert {len(each) for each in lists} == {answer.usage.completion_tokens}
