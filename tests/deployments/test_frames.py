"""deployments.frames: whole events out, ours cut, wherever the network cut the bytes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.frames import Frames, renaming
from deployments.wire import Usage
from policies.errors import EngineGarbage

_STREAM = (
    b':t 0=1,2\ndata: {"model":"a@1","text":"h\xc3\xa9"}\n\n'
    b": engine's own\n\n"
    b':t 0=3;1=4\ndata: {"model":"a@1","text":"\xe6\x97\xa5 \\"model\\":\\"a@1\\""}\n\n'
    b"data: [DONE]\n\n:u 7,2,4\n\n"
)
_SEEN = (
    b'data: {"model":"a","text":"h\xc3\xa9"}\n\n'
    b'data: {"model":"a","text":"\xe6\x97\xa5 \\"model\\":\\"a@1\\""}\n\n'
    b"data: [DONE]\n\n"
)


@given(st.lists(st.integers(0, len(_STREAM)), max_size=30))
def test_any_cut_of_the_bytes_gives_the_same_whole_events(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(_STREAM)]
    frames = Frames(renaming("a@1", "a"))
    parts = [frames.feed(_STREAM[start:end]) for start, end in itertools.pairwise(edges)]
    frames.flush()
    assert b"".join(parts) == _SEEN
    assert all(part == b"" or part.endswith(b"\n\n") for part in parts)
    for part in parts:
        part.decode()
    assert frames.done
    assert frames.usage == Usage(7, 2, 4)
    assert bytes(frames.tokens) == b"0=1,2;0=3;1=4;"


def test_crlf_framing_is_understood() -> None:
    assert Frames().feed(b'data: {"a":1}\r\n\r\n') == b'data: {"a":1}\n\n'


@pytest.mark.parametrize(
    "garbage",
    [b"<html>oops</html>\n\n", b'data: {"a":1\n\n', b'data: {"a":"\xff"}\n\n', b"data: hello\n\n", b"\x00\x01\n\n"],
)
def test_what_no_client_could_read_is_garbage(garbage: bytes) -> None:
    with pytest.raises(EngineGarbage):
        Frames().feed(garbage)


def test_a_stream_that_ends_inside_an_event_is_garbage() -> None:
    frames = Frames()
    assert frames.feed(b'data: {"a":') == b""
    with pytest.raises(EngineGarbage):
        frames.flush()


def test_an_endless_event_is_refused() -> None:
    frames = Frames()
    with pytest.raises(EngineGarbage):
        frames.feed(b"x" * 9 * 2**20)
