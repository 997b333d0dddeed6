"""Whose a request field is: OpenAI's, the engine's sampling, the gateway's own, or nobody's.

The sets name every field of the OpenAI API and of vLLM 0.32; tests compare them with both, so that a new one is seen.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from policies.errors import InvalidRequest

_SHOWN = 64  # characters of a foreign name that an answer repeats


class Endpoint(StrEnum):
    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OPENAI_BOTH = _names(
    "frequency_penalty logit_bias logprobs max_tokens model n presence_penalty seed stop stream stream_options"
    " temperature top_p user"
)

OPENAI: Mapping[Endpoint, frozenset[str]] = {
    Endpoint.CHAT: _OPENAI_BOTH
    | _names(
        "audio function_call functions max_completion_tokens messages metadata modalities moderation"
        " parallel_tool_calls prediction prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort"
        " response_format safety_identifier service_tier store tool_choice tools top_logprobs verbosity"
        " web_search_options"
    ),
    Endpoint.COMPLETIONS: _OPENAI_BOTH | _names("best_of echo prompt suffix"),
}

# What shapes the caller's own tokens and costs nobody else more than these cost: it passes.
_SAMPLING_BOTH = _names(
    "allowed_token_ids bad_words include_stop_str_in_output length_penalty min_p min_tokens repetition_penalty"
    " skip_special_tokens spaces_between_special_tokens stop_token_ids thinking_token_budget top_k"
)

SAMPLING: Mapping[Endpoint, frozenset[str]] = {
    Endpoint.CHAT: _SAMPLING_BOTH | {"include_reasoning"},
    Endpoint.COMPLETIONS: _SAMPLING_BOTH | {"response_format"},
}

OWNED = _names(
    # order, identity and isolation of calls
    "priority request_id session_id cache_salt kv_transfer_params ec_transfer_params vllm_xargs"
    # the prompt as the operator's template and rules make it; truncation could cut what they put there
    " chat_template chat_template_kwargs add_generation_prompt continue_final_message add_special_tokens documents"
    " truncate_prompt_tokens truncation_side prompt_embeds"
    # media and its processing
    " media_io_kwargs mm_processor_kwargs mm_payload return_mm_kwargs"
    # work beyond one token after the other
    " ignore_eos use_beam_search prompt_logprobs logprob_token_ids repetition_detection structured_outputs watermarking"
    # what an answer discloses, and how it is cut into chunks
    " return_token_ids return_tokens_as_token_ids return_token_offsets return_prompt_text routed_experts_prompt_start"
    " stream_interval"
) | {"echo"}  # of chats: prefills the answer; OpenAI defines it for completions alone

# OpenAI defines them, engines here would silently ignore them.
UNOFFERED: Mapping[str, str] = {
    "audio": "Models here answer with text.",
    "function_call": "Use `tool_choice`.",
    "functions": "Use `tools`.",
    "moderation": "Answers are not moderated here on a caller's word.",
    "store": "Answers are not stored here.",
    "web_search_options": "Models here do not search the web.",
}

_KNOWN = {endpoint: OPENAI[endpoint] | SAMPLING[endpoint] for endpoint in Endpoint}


def sift(
    fields: Mapping[str, Any],
    endpoint: Endpoint,
    passthrough: frozenset[str],
    on_owned: Literal["refuse", "overwrite"],
) -> tuple[str, ...]:
    """The fields that the gateway drops. Raises InvalidRequest naming the first that is not the caller's to set."""
    foreign = fields.keys() - _KNOWN[endpoint] - passthrough
    if foreign:
        unknown, owned = foreign - OWNED, foreign & OWNED
        if unknown:
            name = min(unknown)[:_SHOWN]
            raise InvalidRequest(f"Unknown field `{name}`.", param=name)
        if on_owned == "refuse":
            name = min(owned)
            raise InvalidRequest(f"`{name}` is set by the gateway and not by its callers.", param=name)
    for name in UNOFFERED.keys() & fields.keys() - passthrough:
        if fields[name] not in (None, False):
            raise InvalidRequest(f"`{name}` is not offered. {UNOFFERED[name]}", param=name)
    return tuple(sorted(foreign))
