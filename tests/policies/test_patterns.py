"""policies.patterns: what engines compile quickly passes; what held one up is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import InvalidRequest
from policies.patterns import check_patterns


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\d{4}-\d{2}-\d{2}$",
        r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        "[a-z]{0,128}",
        "([a-z]{0,20}-){0,20}",
        "(a+)+$",
        r"\{5000\}[{5000}]",
        "^a$|^b$",
        "(?:^a|b$)",
        r"[\]^$]\^\$",
        r"\u4e00{1,3}",
    ],
)
def test_what_compiles_quickly_passes(pattern: str) -> None:
    check_patterns([pattern], param="p")


@pytest.mark.parametrize(
    "pattern",
    [
        "[a-z]{0,129}",
        r"[\s\S]{0,5000}",
        ".{300,}",
        "(ab|cd){1,2000}",
        "([a-z]{0,100}-){0,100}",
        "([a-z]{1,50} ){1,50}",
        "((a{1,10}){1,10}){1,10}",
        r"(a)\1",
        "(?=a)b",
        "a(",
        "a^b",
        "a$b",
        "\x00",
    ],
)
def test_what_held_an_engine_up_or_is_not_honoured_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_patterns([pattern], param="p")
    assert caught.value.param == "p"


def test_the_repetitions_of_a_schema_are_bounded_together() -> None:
    check_patterns(["[a-z]{128}"] * 16, param="p")
    with pytest.raises(InvalidRequest):
        check_patterns(["[a-z]{128}"] * 17, param="p")


@given(st.lists(st.text("ab(){}[]|*+?,0129^$\\.-", max_size=30), max_size=4))
def test_whatever_comes_it_is_refused_as_a_request_or_passes(patterns: list[str]) -> None:
    try:
        check_patterns(patterns, param="p")
    except InvalidRequest as refused:
        assert refused.param == "p"  # noqa: PT017 - either way is right
