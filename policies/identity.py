"""Who calls: an API key becomes a Principal, or the call ends with 401.

Keys are random, 192 bits, so a plain SHA-256 keeps them: there is nothing to guess. Comparison is constant in time.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import Field

from policies.errors import Unauthenticated
from policies.section import Section

_PREFIX = "sk-themis-"


class KeyConfig(Section):
    name: str = Field(min_length=1, max_length=128)
    """How logs and metrics call this key."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """`themis key new` prints a key, once, and this."""
    tenant: str = Field(default="default", min_length=1, max_length=128)
    """Whose calls they are."""


class IdentityConfig(Section):
    keys: tuple[KeyConfig, ...] = ()
    """Without a key nothing is open."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who answers for a call."""

    tenant: str
    key: str


def new_key() -> str:
    return _PREFIX + secrets.token_urlsafe(24)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class KeyRing:
    """All keys that open a gateway. Immutable: a change is another ring."""

    def __init__(self, keys: Iterable[KeyConfig]) -> None:
        self._keys = {key.sha256: key for key in keys}

    def identify(self, authorization: str | None) -> Principal:
        """The caller behind an `Authorization` header. Raises Unauthenticated, without saying which part was wrong."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthenticated("You didn't provide an API key. Send it as 'Authorization: Bearer KEY'.")
        presented = digest(key.strip())
        found = self._keys.get(presented)
        # The look-up is by digest, so its timing tells nothing about a key; the comparison guards against collisions
        # of the table's hash.
        if found is None or not hmac.compare_digest(found.sha256, presented):
            raise Unauthenticated("Incorrect API key provided.")
        return Principal(tenant=found.tenant, key=found.name)
