"""Text and ids."""

from hypothesis import given
from hypothesis import strategies as st

from deployments.engines.simulated.tokens import (
    ASSISTANT,
    THEMES,
    VOCABULARY,
    Detokenizer,
    chat_prompt,
    decode,
    encode,
    theme_ids,
)

_WORDS = st.lists(st.sampled_from([token for theme in range(len(THEMES)) for token in theme_ids(theme)]))
_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(_TEXT)
def test_an_encoded_text_decodes_to_itself(text: str) -> None:
    ids = encode(text)
    assert decode(ids) == text
    assert all(0 <= token < VOCABULARY for token in ids)


@given(st.text("aé \n🙂海"), _WORDS)
def test_generated_words_encode_to_the_ids_they_came_from(before: str, words: list[int]) -> None:
    """So text sent as a prompt, with what was generated after it, is the same prompt as its ids."""
    assert encode(before + decode(words)) == encode(before) + words


@given(_TEXT)
def test_no_character_is_ever_cut(text: str) -> None:
    detokenizer = Detokenizer()
    parts = [detokenizer.feed(token) for token in text.encode()]
    assert "".join(parts) == text
    assert all(part == "" or part in text for part in parts)


def test_bytes_that_are_no_text_do_not_stop_it() -> None:
    assert decode([0xFF, 0xE6, *encode(" river")]) == "\ufffd\ufffd river"


@given(_TEXT)
def test_no_content_forges_a_turn(text: str) -> None:
    assert chat_prompt([("user", text)]).count(ASSISTANT) == 1


def test_every_theme_has_characters_of_several_bytes() -> None:
    assert all(any(len(word.encode()) > len(word) for word in theme) for theme in THEMES)
