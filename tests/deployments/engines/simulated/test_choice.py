"""How an answer comes about: a pure function of what went before."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from deployments.engines.simulated.choice import Choice, Piece
from deployments.engines.simulated.requests import Plan, parse
from deployments.engines.simulated.tokens import EOS, VOCABULARY, decode
from deployments.engines.simulated.weights import Weights

_WEIGHTS = Weights(1, "m")
_IDS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=30)
_SEEDS = st.none() | st.integers(0, 5)


def _plan(ids: list[int], seed: int | None = 0, stops: tuple[str, ...] = ()) -> Plan:
    return replace(parse(b'{"model": "m", "prompt": "x"}', chat=False), prompts=[ids], seed=seed, stops=stops)


def _run(plan: Plan, max_tokens: int, weights: Weights = _WEIGHTS, number: int = 0) -> list[Piece]:
    choice = Choice(plan, weights, None, number, max_tokens)
    pieces: list[Piece] = []
    while choice.finish is None:
        pieces.append(choice.advance())
    return pieces


@given(_IDS, _SEEDS, st.integers(1, 39))
def test_a_continuation_equals_the_uninterrupted_run(prompt: list[int], seed: int | None, cut: int) -> None:
    whole = [piece.token for piece in _run(_plan(prompt, seed), 40)]
    first, rest = whole[:cut], whole[cut:]
    if rest:
        assert [piece.token for piece in _run(_plan(prompt + first, seed), len(rest))] == rest


@given(_IDS, st.integers(0, 5))
def test_each_of_several_choices_can_be_had_alone(prompt: list[int], seed: int) -> None:
    """Choice i of a call draws as a call with seed + i does."""
    third = _run(replace(_plan(prompt, seed), n=3), 10, number=2)
    assert [piece.token for piece in third] == [piece.token for piece in _run(_plan(prompt, seed + 2), 10)]


@given(_IDS, st.integers(0, 20))
def test_a_stop_string_never_appears_and_loses_no_text_before_it(prompt: list[int], start: int) -> None:
    text = decode(piece.token for piece in _run(_plan(prompt), 30) if piece.token != EOS)
    stop = text[start : start + 3]
    if stop:
        pieces = _run(_plan(prompt, stops=(stop, "never this")), 30)
        assert "".join(piece.text for piece in pieces) == text[: text.index(stop)]
        assert pieces[-1].finish == "stop"


def test_another_adapter_seed_or_engine_speaks_otherwise() -> None:
    def tokens(weights: Weights, seed: int | None) -> tuple[int, ...]:
        return tuple(piece.token for piece in _run(_plan([65, 66], seed), 20, weights))

    others = [Weights(2, "m"), Weights(1, "other"), Weights(1, "m", "pirate@1"), Weights(1, "m", "poet@1")]
    answers = [tokens(_WEIGHTS, None), tokens(_WEIGHTS, 0), *(tokens(weights, 0) for weights in others)]
    assert len(set(answers)) == len(answers)


def test_an_adapter_uses_none_of_the_base_models_words() -> None:
    base = {piece.token for piece in _run(_plan([65]), 40)} - {EOS}
    adapted = {piece.token for piece in _run(_plan([65]), 40, Weights(1, "m", "pirate@1"))} - {EOS}
    assert not base & adapted


def test_answers_end_by_themselves_unless_told_not_to() -> None:
    lengths = [len(_run(_plan([65, 66, 67], seed), 5000)) for seed in range(60)]
    assert 100 < sum(lengths) / len(lengths) < 400
    assert len(_run(replace(_plan([65]), ignore_eos=True), 3000)) == 3000
    assert all(len(_run(replace(_plan([65], seed), min_tokens=300), 2000)) > 300 for seed in range(20))
