r"""Which regular expressions an engine may be given to compile into a grammar.

RE2 (linear time, no back-references, no look-around) says whether a pattern is sound; counted repetitions are bounded
beyond that, since xgrammar unrolls them: `[\s\S]{0,5000}` holds up a whole vLLM for ten seconds.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

import re2

from policies.errors import InvalidRequest

MAX_REPEAT = 128  # of one counted repetition; xgrammar 0.2.8 compiles no larger one of a character class
MAX_UNROLLED = 512  # pieces of one pattern when its counted repetitions, nested ones multiplied, are written out
MAX_UNROLLED_IN_ALL = 2_048  # of all patterns of a schema
MAX_PATTERN_MEMORY = 1 << 20  # bytes of RE2 for all patterns of a schema: at most tens of milliseconds
_SHOWN = 80  # characters of a pattern that an answer repeats

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
# A piece of a pattern that RE2 has accepted: escape, class, counted repetition, group's opening, or character.
_PIECE = re.compile(
    r"(?P<escape>\\(?:x\{[0-9a-fA-F]+\}|[pP]\{[^}]*\}|u[0-9a-fA-F]{4}|.))"
    r"|(?P<set>\[\^?\]?(?:\\.|\[:[^\]]*:\]|[^\]\\])*\])"
    r"|\{(?P<least>\d+)(?P<open>,(?P<most>\d*))?\}"
    r"|(?P<group>\((?:\?(?:P?<[^>]*>|[a-zA-Z-]*:?))?)"
    r"|(?P<other>.)",
    re.DOTALL,
)


def check_patterns(patterns: Collection[str], *, param: str) -> None:
    """Raises InvalidRequest naming the first pattern, or all, that no engine should compile."""
    if not patterns:
        return
    _check_sound(patterns, param)
    unrolled = [_unrolled(pattern, param) for pattern in patterns]
    if sum(unrolled) > MAX_UNROLLED_IN_ALL:
        raise InvalidRequest(f"The counted repetitions of `{param}` are too many.", param=param)


def _check_sound(patterns: Collection[str], param: str) -> None:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_PATTERN_MEMORY
    compiler = re2.Set.SearchSet(options)
    for pattern in dict.fromkeys(patterns):
        try:
            added = "\x00" not in pattern and compiler.Add(_ESCAPE.sub(_as_re2, pattern)) >= 0
        except re2.error:
            added = False
        if not added:
            _refuse(pattern, param, "is malformed, or has look-around, back-references, too many repetitions, or NUL.")
    try:
        compiler.Compile()
    except re2.error as fault:
        raise InvalidRequest(f"The regular expressions of `{param}` are too large.", param=param) from fault


def _as_re2(escape: re.Match[str]) -> str:
    r"""ECMAScript's `\u4e00`, which JSON Schema speaks, is `\x{4e00}` in RE2."""
    return f"\\x{{{escape[1]}}}" if escape[1] else escape[0]


@dataclass(slots=True)
class _Size:
    """Of a group: its pieces; those of its last piece; what counted repetitions make of it."""

    pieces: int = 0
    last: int = 0
    unrolled: int = 0

    def add(self, pieces: int) -> None:
        self.pieces += pieces
        self.last = pieces

    def repeat(self, most: int) -> None:
        self.pieces += (most - 1) * self.last if most else 0
        self.last *= max(1, most)
        self.unrolled = max(self.unrolled, self.last)


def _unrolled(pattern: str, param: str) -> int:
    """How many pieces the largest counted repetition of a pattern stands for."""
    groups, largest = [_Size()], 0
    for piece in _PIECE.finditer(pattern):
        if piece["least"]:
            most = int(piece["most"] or piece["least"])
            if most > MAX_REPEAT:
                _refuse(pattern, param, f"repeats more than {MAX_REPEAT} times; use minLength or maxLength.")
            groups[-1].repeat(most)
            largest = max(largest, groups[-1].unrolled)
        elif piece["group"]:
            groups.append(_Size())
        elif piece["other"] == ")" and len(groups) > 1:
            inner = groups.pop()
            groups[-1].add(max(1, inner.pieces))
        elif piece["other"] in ("^", "$"):
            _check_anchor(pattern, piece, param)
        elif piece["other"] not in ("*", "+", "?", "|"):
            groups[-1].add(1)
        if largest > MAX_UNROLLED:
            _refuse(pattern, param, f"stands for more than {MAX_UNROLLED} pieces when its repetitions are written out.")
    return largest


def _check_anchor(pattern: str, anchor: re.Match[str], param: str) -> None:
    """Engines drop `^` and `$` wherever they stand; so they may stand only where that changes nothing."""
    before, after = pattern[: anchor.start()], pattern[anchor.end() :]
    good = not before or before[-1] in "(|:" if anchor[0] == "^" else not after or after[0] in ")|"
    if not good:
        _refuse(pattern, param, f"has `{anchor[0]}` in its middle, which engines do not honour.")


def _refuse(pattern: str, param: str, why: str) -> None:
    raise InvalidRequest(f"`{param}`: the regular expression `{pattern[:_SHOWN]}` {why}", param=param)
