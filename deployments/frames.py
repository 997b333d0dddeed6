"""Server-sent events on their way through the gateway: whole events out, our comment lines cut, the model renamed.

feed/flush, no I/O. It knows the framing (https://html.spec.whatwg.org/multipage/server-sent-events.html), not what the
events say: JSON that nobody changes is not parsed. An event that no client could read is EngineGarbage.
"""

from deployments.wire import TOKENS_MARK, USAGE_MARK, Usage
from policies.errors import EngineGarbage

_EVENT_BOUND = 8 * 2**20  # bytes of one event; logprobs of a long prompt are the largest that an engine sends
DONE = b"data: [DONE]"


def renaming(engine_name: str, public_name: str) -> tuple[bytes, bytes] | None:
    """What to replace in an answer so that it carries the public name.

    An unescaped `"model":"` occurs in JSON as a key only: inside a string its quotes would be escaped.
    """
    if engine_name == public_name:
        return None
    return b'"model":"%s"' % engine_name.encode(), b'"model":"%s"' % public_name.encode()


class Frames:
    """One stream. Mutable state: `_tail`, `tokens`, `usage`, `done`; changed in `feed` and the functions it calls."""

    def __init__(self, rename: tuple[bytes, bytes] | None = None) -> None:
        self._rename = rename
        self._tail = b""
        self.tokens = bytearray()  # the raw token comments, for whoever has to continue or bill a broken stream
        self.usage: Usage | None = None
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """The whole events that `data` completes; what follows waits for its rest."""
        if self._tail:
            data = self._tail + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        end = data.rfind(b"\n\n")
        if end < 0:
            if len(data) > _EVENT_BOUND:
                raise EngineGarbage(f"The engine sent an event of more than {_EVENT_BOUND} bytes.")
            self._tail = data
            return b""
        self._tail = data[end + 2 :]
        events = [event for raw in data[:end].split(b"\n\n") if (event := self._event(raw))]
        if not events:
            return b""
        events.append(b"")
        out = b"\n\n".join(events)
        return out.replace(*self._rename) if self._rename else out

    def flush(self) -> None:
        """Raises EngineGarbage when the stream ended inside an event."""
        if self._tail.strip():
            raise EngineGarbage("The engine's stream ended inside an event.")

    def _event(self, event: bytes) -> bytes:
        while event[:1] == b":":
            comment, _, event = event.partition(b"\n")
            self._comment(comment)
        if event[:7] == b"data: {" and event[-1:] == b"}":
            if not event.isascii():
                _check_utf8(event)
        elif event == DONE:
            self.done = True
        elif event and not event.startswith((b"event: ", b"id: ", b"retry: ")):
            raise EngineGarbage("The engine sent what is no event.")
        return event

    def _comment(self, comment: bytes) -> None:
        # Comments of the engine itself (its heartbeats) end here too: the gateway sends its own.
        if comment.startswith(TOKENS_MARK):
            self.tokens += comment[3:] + b";"
        elif comment.startswith(USAGE_MARK):
            self.usage = Usage.decode(comment[3:].decode())


def _check_utf8(event: bytes) -> None:
    try:
        event.decode()
    except UnicodeDecodeError as error:
        raise EngineGarbage("The engine sent bytes that are no UTF-8.") from error
