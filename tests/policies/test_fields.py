"""Every field of the OpenAI API and of vLLM has an owner, and the owner decides what becomes of it."""

import subprocess
import sys
from typing import Any

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from policies.errors import InvalidRequest
from policies.fields import OPENAI, OWNED, SAMPLING, UNOFFERED, Endpoint, sift

NOTHING = frozenset[str]()

_LIST_FIELDS = """
import json
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
print(json.dumps([list(ChatCompletionRequest.model_fields), list(CompletionRequest.model_fields)]))
"""


@pytest.mark.parametrize(
    ("endpoint", "module"),
    [(Endpoint.CHAT, chat_create_params), (Endpoint.COMPLETIONS, completion_create_params)],
)
def test_the_official_sdk_sends_the_fields_listed_here_and_no_others(endpoint: Endpoint, module: Any) -> None:
    kinds = (module.CompletionCreateParamsNonStreaming, module.CompletionCreateParamsStreaming)
    keys = {key for kind in kinds for key in kind.__required_keys__ | kind.__optional_keys__}
    assert keys == OPENAI[endpoint]


@pytest.mark.vllm
def test_every_field_of_vllm_is_classified_once() -> None:
    """In a process of its own: importing vLLM here would load torch, and its warnings, into every later test."""
    import json

    listed = subprocess.run([sys.executable, "-W", "ignore", "-c", _LIST_FIELDS], capture_output=True, check=True)
    chat, completions = json.loads(listed.stdout.splitlines()[-1])
    for endpoint, fields in ((Endpoint.CHAT, chat), (Endpoint.COMPLETIONS, completions)):
        assert set(fields) - OPENAI[endpoint] - SAMPLING[endpoint] - OWNED == set()
    vllm = set(chat) | set(completions)
    assert vllm >= OWNED, "an owned field that vLLM does not know any more"
    assert vllm >= SAMPLING[Endpoint.CHAT] | SAMPLING[Endpoint.COMPLETIONS]


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_no_field_has_two_owners(endpoint: Endpoint) -> None:
    assert not OPENAI[endpoint] & SAMPLING[endpoint]
    assert not SAMPLING[endpoint] & OWNED
    assert OPENAI[endpoint] & OWNED == ({"echo"} if endpoint is Endpoint.COMPLETIONS else set())
    assert UNOFFERED.keys() <= OPENAI[Endpoint.CHAT]


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_what_openai_defines_and_sampling_fields_pass(endpoint: Endpoint) -> None:
    fields = dict.fromkeys((OPENAI[endpoint] | SAMPLING[endpoint]) - UNOFFERED.keys(), 1)
    assert sift(fields, endpoint, NOTHING, "refuse") == ()


@pytest.mark.parametrize("endpoint", list(Endpoint))
@pytest.mark.parametrize("name", sorted(OWNED - {"echo"}))
def test_an_owned_field_is_refused_dropped_or_passed_as_configured(name: str, endpoint: Endpoint) -> None:
    with pytest.raises(InvalidRequest) as refused:
        sift({name: 1}, endpoint, NOTHING, "refuse")
    assert refused.value.param == name
    assert name in refused.value.message
    assert sift({name: 1}, endpoint, NOTHING, "overwrite") == (name,)
    assert sift({name: 1}, endpoint, frozenset({name}), "refuse") == ()
    assert sift({name: 1}, endpoint, frozenset({name}), "overwrite") == ()


def test_echo_is_openais_for_completions_and_the_gateways_for_chats() -> None:
    assert sift({"echo": True}, Endpoint.COMPLETIONS, NOTHING, "refuse") == ()
    with pytest.raises(InvalidRequest, match="`echo`"):
        sift({"echo": True}, Endpoint.CHAT, NOTHING, "refuse")


@pytest.mark.parametrize("on_owned", ["refuse", "overwrite"])
def test_an_unknown_field_is_refused_by_its_name_unless_passed(on_owned: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        sift({"warp_factor": 9}, Endpoint.CHAT, NOTHING, on_owned)
    assert refused.value.param == "warp_factor"
    assert sift({"warp_factor": 9}, Endpoint.CHAT, frozenset({"warp_factor"}), on_owned) == ()


@pytest.mark.parametrize("name", sorted(UNOFFERED))
def test_what_is_not_offered_is_refused_with_a_reason_when_asked_for(name: str) -> None:
    for harmless in (None, False):
        assert sift({name: harmless}, Endpoint.CHAT, NOTHING, "refuse") == ()
    with pytest.raises(InvalidRequest) as refused:
        sift({name: True}, Endpoint.CHAT, NOTHING, "refuse")
    assert refused.value.param == name
    assert UNOFFERED[name] in refused.value.message
    assert sift({name: True}, Endpoint.CHAT, frozenset({name}), "refuse") == ()
