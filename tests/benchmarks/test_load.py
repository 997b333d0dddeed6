"""The load generator against servers of a few lines: right ones, wrong ones, and ones that break off."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from benchmarks.callers import Order
from benchmarks.load import LoadProcess, Tally

_CHUNK = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

Answer = Callable[[socket.socket], None]


def _chunked(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def _right(connection: socket.socket) -> None:
    connection.sendall(_HEAD + _chunked(_CHUNK))
    connection.sendall(_chunked(_CHUNK)[:20])
    connection.sendall(_chunked(_CHUNK)[20:] + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def _short(connection: socket.socket) -> None:
    connection.sendall(_HEAD + _chunked(_CHUNK) + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def _cut(connection: socket.socket) -> None:
    connection.sendall(_HEAD + _chunked(_CHUNK))
    connection.shutdown(socket.SHUT_RDWR)


def _silent(connection: socket.socket) -> None:
    connection.recv(1)  # until the client leaves


@contextmanager
def _server(answer: Answer) -> Iterator[str]:
    """Answers every request on every connection like that."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(connection: socket.socket) -> None:
            with connection:
                try:
                    while connection.recv(65536):
                        answer(connection)
                except OSError:
                    return

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/chat/completions"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


@pytest.fixture(scope="module")
def load() -> Iterator[LoadProcess]:
    with LoadProcess.started() as process:
        yield process


def _run(load: LoadProcess, answer: Answer, *, calls: int = 12, patience_s: float = 20.0) -> Tally:
    with _server(answer) as url:
        return load.run(
            Order(
                url=url,
                headers={},
                bodies=["{}"],
                stream=True,
                tokens=2,
                concurrency=3,
                seconds=20.0 if patience_s > 1 else 0.1,
                calls=calls,
                patience_s=patience_s,
            )
        )


def test_every_call_is_answered_and_every_chunk_has_its_time(load: LoadProcess) -> None:
    tally = _run(load, _right)
    assert (tally.calls, tally.tokens, tally.failed, tally.lost) == (12, 24, 0, 0)
    assert (len(tally.ttft_ms), len(tally.gaps_ms), len(tally.pace_ms)) == (12, 12, 12)
    assert all(ttft > 0 for ttft in tally.ttft_ms)


def test_a_stream_with_a_chunk_too_few_has_failed(load: LoadProcess) -> None:
    tally = _run(load, _short)
    assert (tally.calls, tally.failed, tally.lost) == (0, 12, 0)
    assert tally.faults[0] == "1 tokens instead of 2"


def test_a_stream_that_breaks_off_is_lost_and_its_caller_calls_again(load: LoadProcess) -> None:
    tally = _run(load, _cut)
    assert (tally.calls, tally.failed, tally.lost) == (0, 0, 12)


def test_a_call_that_is_not_answered_in_time_is_lost(load: LoadProcess) -> None:
    tally = _run(load, _silent, patience_s=0.2)
    assert (tally.calls, tally.failed, tally.lost) == (0, 0, 3)
