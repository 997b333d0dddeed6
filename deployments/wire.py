"""The wire between a gateway and a replica's shell: OpenAI HTTP/SSE, with what is ours kept out of band.

Requests carry our fields as headers. Answers carry them as headers too; streams carry, ahead of an event, an SSE
comment line (https://html.spec.whatwg.org/multipage/server-sent-events.html) that the gateway cuts out. So the body
that a client gets is the engine's own, byte for byte.

    :t 0=12,345;1=9            ids generated since the last event, per choice index
    :u 12,0,34                 at the end: prompt, cached and generated tokens
"""

from collections.abc import Mapping
from dataclasses import dataclass

SECRET = "x-themis-secret"  # noqa: S105 - a header's name
CALL = "x-themis-call"
ATTEMPT = "x-themis-attempt"
GATEWAY = "x-themis-gateway"
PRIORITY = "x-themis-priority"
SALT = "x-themis-cache-salt"

CREDIT = "x-themis-credit"
USAGE = "x-themis-usage"
REFUSED = "x-themis-refused"  # why the shell itself, not the engine, gave this answer

OVER_CREDIT = "over-credit"
DRAINING = "draining"
ENGINE_DEAD = "engine-dead"

TOKENS_MARK = b":t "
USAGE_MARK = b":u "


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one attempt of one call, as the engine counted them."""

    prompt: int = 0
    cached: int = 0
    generated: int = 0

    def encode(self) -> str:
        return f"{self.prompt},{self.cached},{self.generated}"

    @classmethod
    def decode(cls, text: str) -> "Usage":
        """Raises ValueError when `text` is not three non-negative integers."""
        prompt, cached, generated = (int(part) for part in text.split(","))
        if min(prompt, cached, generated) < 0:
            raise ValueError(f"negative usage: {text}")
        return cls(prompt, cached, generated)


def tokens_comment(ids: Mapping[int, list[int]]) -> bytes:
    """The comment line for the ids generated since the last event, by choice index."""
    parts = ";".join(f"{choice}={','.join(map(str, new))}" for choice, new in ids.items())
    return b":t %s\n" % parts.encode()


def usage_comment(usage: Usage) -> bytes:
    return b":u %s\n" % usage.encode().encode()
