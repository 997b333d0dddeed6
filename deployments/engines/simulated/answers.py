"""Pieces as OpenAI's bodies: a chat completion or a text completion, whole or in chunks.

What is constant in a stream's chunks is encoded once per call, and the text of a token once per process.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from deployments.engines.simulated.call import Call
from deployments.engines.simulated.choice import Choice, Piece
from deployments.engines.simulated.tokens import VOCABULARY, token_text

DONE = b"data: [DONE]\n\n"
_text_json = lru_cache(maxsize=2 * VOCABULARY)(orjson.dumps)


class Answer:
    """One call's answer. Mutable state: per choice, the offset of its text and whether its tool is named."""

    def __init__(self, call: Call, model: str, created: int) -> None:
        chat = call.plan.chat
        self._call = call
        self._chat = chat
        self._tools = bool(call.plan.tools)
        self._id = ("chatcmpl-" if chat else "cmpl-") + os.urandom(16).hex()
        self._kind = "chat.completion" if chat else "text_completion"
        self._head = {"id": self._id, "created": created, "model": model}
        self._offsets = dict.fromkeys(range(len(call.choices)), 0)
        self._named: set[int] = set()
        chunk = orjson.dumps({"object": self._kind + (".chunk" if chat else ""), **self._head})
        self._prefix = b"data: " + chunk[:-1] + b',"choices":['
        opening = b'{"index":%d,"delta":{"content":' if chat else b'{"index":%d,"text":'
        self._openings = [self._prefix + opening % number for number in range(len(call.choices))]
        self._closing = b'},"logprobs":null,"finish_reason":' if chat else b',"logprobs":null,"finish_reason":'

    def opening(self) -> bytes:
        """What a stream begins with: the roles of a chat."""
        if not self._chat:
            return b""
        delta = {"delta": {"role": "assistant", "content": None if self._tools else ""}}
        return b"".join(
            self._event({"index": choice.number, **delta, "logprobs": None, "finish_reason": None})
            for choice in self._call.choices
        )

    def chunk(self, piece: Piece) -> bytes:
        if piece.finish is None and piece.logprobs is None and not self._tools:
            head = self._openings[piece.choice.number]
            return b"%b%b%bnull}]}\n\n" % (head, _text_json(piece.text), self._closing)
        body = {"delta": self._delta(piece)} if self._chat else {"text": piece.text}
        return self._event(
            {
                "index": piece.choice.number,
                **body,
                "logprobs": None if piece.logprobs is None else self._logprobs([piece]),
                "finish_reason": piece.finish,
                "stop_reason": piece.choice.stop_reason if piece.finish else None,
            }
        )

    def closing(self) -> bytes:
        """What a stream ends with: the usage, where it was asked for, and the mark of the end."""
        if not self._call.plan.include_usage:
            return DONE
        return self._prefix + b'],"usage":' + orjson.dumps(self._usage()) + b"}\n\n" + DONE

    def whole(self, pieces: Sequence[Piece]) -> bytes:
        by_choice: dict[int, list[Piece]] = {choice.number: [] for choice in self._call.choices}
        for piece in pieces:
            by_choice[piece.choice.number].append(piece)
        choices = [self._choice(choice, by_choice[choice.number]) for choice in self._call.choices]
        return orjson.dumps({**self._head, "object": self._kind, "choices": choices, "usage": self._usage()})

    def _choice(self, choice: Choice, pieces: Sequence[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        return {
            "index": choice.number,
            **({"message": _message(choice, text)} if self._chat else {"text": text}),
            "logprobs": None if self._call.plan.logprobs is None else self._logprobs(pieces),
            "finish_reason": choice.finish,
            "stop_reason": choice.stop_reason,
        }

    def _delta(self, piece: Piece) -> dict[str, Any]:
        tool = piece.choice.tool
        if tool is None:
            return {"content": piece.text}
        function: dict[str, Any] = {"arguments": piece.text}
        if piece.choice.number in self._named:
            return {"tool_calls": [{"index": 0, "function": function}]}
        self._named.add(piece.choice.number)
        call = {"index": 0, "id": _tool_call_id(), "type": "function", "function": {"name": tool.name, **function}}
        return {"tool_calls": [call]}

    def _logprobs(self, pieces: Iterable[Piece]) -> dict[str, Any]:
        if self._chat:
            return {"content": [_chat_logprob(piece) for piece in pieces]}
        tokens, values, tops, offsets = [], [], [], []
        for piece in pieces:
            (token, value), *top = piece.logprobs or [(piece.token, 0.0)]
            tokens.append(token_text(token))
            values.append(value)
            tops.append({token_text(other): logprob for other, logprob in top})
            offsets.append(self._offsets[piece.choice.number])
            self._offsets[piece.choice.number] += len(token_text(token))
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}

    def _usage(self) -> dict[str, Any]:
        usage = self._call.usage
        return {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.generated,
            "total_tokens": usage.prompt + usage.generated,
            "prompt_tokens_details": {"cached_tokens": usage.cached},
        }

    def _event(self, choice: Mapping[str, Any]) -> bytes:
        return self._prefix + orjson.dumps(choice) + b"]}\n\n"


def _message(choice: Choice, text: str) -> dict[str, Any]:
    if choice.tool is None:
        return {"role": "assistant", "content": text, "refusal": None, "tool_calls": []}
    function = {"name": choice.tool.name, "arguments": text}
    call = {"id": _tool_call_id(), "type": "function", "function": function}
    return {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}


def _chat_logprob(piece: Piece) -> dict[str, Any]:
    first, *top = piece.logprobs or [(piece.token, 0.0)]
    return {**_named(first), "top_logprobs": [_named(other) for other in top]}


def _named(scored: tuple[int, float]) -> dict[str, Any]:
    token, logprob = scored
    text = token_text(token)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _tool_call_id() -> str:
    return "chatcmpl-tool-" + os.urandom(16).hex()
