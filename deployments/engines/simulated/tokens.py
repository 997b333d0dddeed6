"""Text to token ids and back.

Ids 0 to 255 are the bytes of UTF-8; then come markers of the chat template, which have no text; then words, each with
the space before it. A known word is one token and any other text is one token per byte, so decoding an encoded text
gives that text, and text made of words encodes to the very ids it was decoded from. Knows nothing of sampling.
"""

import codecs
import re
from collections.abc import Iterable, Sequence

EOS, SYSTEM, USER, ASSISTANT, TOOL, END = range(256, 262)
MARKERS = {"system": SYSTEM, "developer": SYSTEM, "user": USER, "assistant": ASSISTANT, "tool": TOOL, "function": TOOL}
_NAMES = {EOS: "<|eos|>", END: "<|end|>", **{marker: f"<|{role}|>" for role, marker in MARKERS.items()}}
_FIRST_WORD = 262

# One line is what one set of weights talks about: adapters can be told apart at a glance. Accents, CJK and emoji take
# two to four bytes, so that whatever cuts a character is found.
_THEMES = (
    "river stone lamp paper window bridge letter garden morning silver quiet café naïve façade 東京 日本語 🙂 👍 é",
    "wave harbour anchor sail tide gull coral lantern keel storm salt drift mañana niño señal 海 波浪 🌊 🐟 ü",
    "flour oven butter basil pepper kettle spoon plum honey broth bread simmer crêpe purée sauté 料理 茶 🍞 🍋 û",
    "summit glacier ridge boulder cedar meadow eagle trail granite valley frost echo höhe größe übung 山 雪 ⛰ 🦅 ö",
    "signal engine rotor copper gear valve circuit rivet piston relay ampere forge zażółć gęślą jaźń 機械 鉄 🔧 🤖 ż",
    "violin tempo chorus ballad octave rhythm cello reed harp verse encore hum prélude étude élan 音楽 歌 🎵 🎻 ê",
    "comet orbit nebula zenith lunar photon quasar eclipse meteor aurora cosmos dusk čas hvězda měsíc 星 宇宙 🌙 🚀 č",
    "fern moss orchard clover thistle acorn willow beetle pollen sprout root bloom træ sø blåbær 花 森林 🌱 🌻 å",
)
THEMES = tuple(tuple(line.split()) for line in _THEMES)
_WORDS = [" " + word for theme in THEMES for word in theme]
_IDS = {word: _FIRST_WORD + place for place, word in enumerate(_WORDS)}
VOCABULARY = _FIRST_WORD + len(_WORDS)
_PIECES = re.compile(r" [^\s]+|\s+?(?= [^\s])|[^\s]+|\s+")


def theme_ids(theme: int) -> tuple[int, ...]:
    return tuple(_IDS[" " + word] for word in THEMES[theme])


def encode(text: str) -> list[int]:
    """The ids of a text. A lone surrogate, which UTF-8 cannot carry, becomes a question mark."""
    ids: list[int] = []
    for piece in _PIECES.findall(text):
        word = _IDS.get(piece)
        if word is None:
            ids.extend(piece.encode("utf-8", "replace"))
        else:
            ids.append(word)
    return ids


def token_text(token: int) -> str:
    """One token by itself, as log probabilities name it."""
    if token >= _FIRST_WORD:
        return _WORDS[token - _FIRST_WORD]
    return _NAMES[token] if token >= EOS else bytes((token,)).decode("utf-8", "replace")


class Detokenizer:
    """Text from ids one by one. Holds back the bytes of a character until it is whole."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = False

    def feed(self, token: int) -> str:
        if token < EOS:
            self._pending = True
            return self._decoder.decode(bytes((token,)))
        word = _WORDS[token - _FIRST_WORD] if token >= _FIRST_WORD else ""
        return self.flush() + word if self._pending else word

    def flush(self) -> str:
        """What is left of a character that never became whole."""
        self._pending = False
        return self._decoder.decode(b"", final=True)


def decode(ids: Iterable[int]) -> str:
    detokenizer = Detokenizer()
    return "".join([detokenizer.feed(token) for token in ids]) + detokenizer.flush()


def chat_prompt(turns: Sequence[tuple[str, str]]) -> list[int]:
    """The chat template: marker, content, end for each (role, content), then the marker of the answer.

    Markers have no text, so no content can forge one.
    """
    ids: list[int] = []
    for role, content in turns:
        ids += [MARKERS[role], *encode(content), END]
    return [*ids, ASSISTANT]
