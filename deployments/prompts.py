"""What a model reads: the content of chat messages and the prompts of completions, checked and measured."""

from collections.abc import Sequence
from typing import Any

from deployments.requests import Message
from policies.errors import InvalidRequest

MAX_PROMPTS = 64

_PARTS = {"text": "text", "refusal": "refusal"}  # the kind of a part, and the field that holds its text
# vLLM takes a part's kind from these keys, too, whatever its `type` says.
_MEDIA = frozenset(
    {
        "audio_embeds", "audio_url", "file", "image_embeds", "image_pil", "image_url", "input_audio", "input_image",
        "prompt_embeds", "uuid", "video_embeds", "video_url",
    }
)  # fmt: skip


def check_messages(messages: Sequence[Message]) -> None:
    """Raises InvalidRequest naming the message, and its part, that is not text as its role has to have it."""
    for index, message in enumerate(messages):
        place = f"messages.{index}"
        if message.content is None:
            calls = message.role == "assistant" and (message.tool_calls or message.function_call or message.refusal)
            if not calls:
                raise InvalidRequest(f"`{place}.content` is missing.", param=f"{place}.content")
        elif not isinstance(message.content, str):
            _check_parts(message.content, f"{place}.content")
        if message.role == "tool" and message.tool_call_id is None:
            raise InvalidRequest(f"`{place}.tool_call_id` is missing.", param=f"{place}.tool_call_id")


def _check_parts(parts: Any, place: str) -> None:
    if not isinstance(parts, list) or not parts:
        raise InvalidRequest(f"`{place}` must be a string or a list of parts that is not empty.", param=place)
    for index, part in enumerate(parts):
        _check_part(part, f"{place}.{index}")


def _check_part(part: Any, place: str) -> None:
    """The one rule about media: none is taken."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise InvalidRequest(f"`{place}` must be an object with a `type`.", param=place)
    kind = part["type"]
    if kind not in _PARTS or not _MEDIA.isdisjoint(part):
        raise InvalidRequest(f"`{place}` is not text. Models here take no images, audio or files.", param=place)
    if not isinstance(part.get(_PARTS[kind]), str):
        raise InvalidRequest(f"`{place}.{_PARTS[kind]}` must be a string.", param=f"{place}.{_PARTS[kind]}")


def prompt_size(prompt: Any) -> tuple[int, int]:
    """Upper bound of all tokens of a completion's prompts, and the tokens of the longest one that came as ids."""
    if isinstance(prompt, str) and prompt:
        return len(prompt.encode()), 0
    if not isinstance(prompt, list) or not prompt:
        raise _bad_prompt()
    kinds = set(map(type, prompt))
    if kinds == {int}:
        return (_ids(prompt),) * 2
    if len(prompt) > MAX_PROMPTS:
        raise InvalidRequest(f"`prompt` has {len(prompt)} prompts, at most {MAX_PROMPTS} are allowed.", param="prompt")
    if kinds == {str} and all(prompt):
        return sum(len(text.encode()) for text in prompt), 0
    if kinds == {list} and all(set(map(type, ids)) == {int} for ids in prompt):
        counts = [_ids(ids) for ids in prompt]
        return sum(counts), max(counts)
    raise _bad_prompt()


def _ids(ids: list[int]) -> int:
    if min(ids) < 0:
        raise InvalidRequest("`prompt` has a negative token id.", param="prompt")
    return len(ids)


def _bad_prompt() -> InvalidRequest:
    words = "`prompt` must be a string, a list of strings, a list of token ids, or a list of these; never empty."
    return InvalidRequest(words, param="prompt")
