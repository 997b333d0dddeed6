import pytest

from benchmarks.answers import Exchange, Wrong, read

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _event(content: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % content.encode()


def _chunked(*payloads: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads) + b"0\r\n\r\n"


def _exchange(*parts: tuple[float, bytes]) -> Exchange:
    return Exchange(10.0, list(parts), whole=True)


def test_each_chunk_arrived_when_its_last_byte_did() -> None:
    role = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    first, second = _event("a"), b":t 0=5\n" + _event("b")
    body = _chunked(role + first, second[:9], second[9:], b"data: [DONE]\n\n")
    cut = body.index(second[9:]) + len(second[9:]) - 1  # all of the second event but its last line break
    exchange = _exchange((10.5, _HEAD + body[:40]), (11.0, body[40:cut]), (12.0, body[cut:]))
    reading = read(exchange, stream=True, tokens=2, by_usage=False)
    assert reading.arrivals == [11.0, 12.0]
    assert (reading.ttft_ms, reading.latency_ms, reading.gaps_ms) == (1000.0, 2000.0, [1000.0])


def test_an_engine_that_puts_two_tokens_into_one_chunk_is_believed_its_usage() -> None:
    usage = b'data: {"choices":[],"usage":{"completion_tokens":2}}\n\n'
    exchange = _exchange((11.0, _HEAD + _chunked(_event("a b"), usage, b"data: [DONE]\n\n")))
    assert read(exchange, stream=True, tokens=2, by_usage=True).tokens == 2
    with pytest.raises(Wrong, match="1 tokens instead of 2"):
        read(exchange, stream=True, tokens=2, by_usage=False)


@pytest.mark.parametrize(
    ("payloads", "fault"),
    [
        ((_event("a"), b"data: [DONE]\n\n"), "1 tokens instead of 2"),
        ((_event("a"), _event("b")), "does not end with"),
        ((_event("a"), b"data: [DONE]\n\n", _event("b")), "does not end with"),
        ((b"data: {]\n\n",), "no JSON"),
    ],
)
def test_a_stream_that_is_not_what_was_asked_for_is_wrong(payloads: tuple[bytes, ...], fault: str) -> None:
    with pytest.raises(Wrong, match=fault):
        read(_exchange((11.0, _HEAD + _chunked(*payloads))), stream=True, tokens=2, by_usage=False)


def test_a_unary_answer_counts_by_its_usage_and_needs_content() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    body = b'{"choices":[{"message":{"content":"%s"}}],"usage":{"completion_tokens":8}}'
    reading = read(_exchange((11.0, head), (12.0, body % b"a")), stream=False, tokens=8, by_usage=False)
    assert (reading.tokens, reading.latency_ms) == (8, 2000.0)
    with pytest.raises(Wrong, match="empty"):
        read(_exchange((11.0, head + body % b"")), stream=False, tokens=8, by_usage=False)


def test_an_error_is_told_with_its_status_and_body() -> None:
    answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfull"
    with pytest.raises(Wrong, match="503 Service Unavailable: full"):
        read(_exchange((11.0, answer)), stream=True, tokens=2, by_usage=False)
