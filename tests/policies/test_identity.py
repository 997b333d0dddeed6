"""policies.identity: only a known key opens, and what is kept of it opens nothing."""

import pytest

from policies.errors import Unauthenticated
from policies.identity import KeyConfig, KeyRing, Principal, digest, new_key


def test_a_known_key_is_its_tenant() -> None:
    key = new_key()
    ring = KeyRing([KeyConfig(name="ci", sha256=digest(key), tenant="acme")])
    assert ring.identify(f"Bearer {key}") == Principal("acme", "ci")
    assert ring.identify(f"bearer {key}") == Principal("acme", "ci")


@pytest.mark.parametrize("presented", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer wrong", "Bearer é"])
def test_anything_else_is_401(presented: str | None) -> None:
    ring = KeyRing([KeyConfig(name="ci", sha256=digest("right"))])
    with pytest.raises(Unauthenticated):
        ring.identify(presented)


def test_the_kept_digest_is_no_key() -> None:
    key = new_key()
    ring = KeyRing([KeyConfig(name="ci", sha256=digest(key))])
    with pytest.raises(Unauthenticated):
        ring.identify(f"Bearer {digest(key)}")


def test_without_keys_nothing_is_open() -> None:
    with pytest.raises(Unauthenticated):
        KeyRing([]).identify(f"Bearer {new_key()}")


def test_keys_are_long_and_never_the_same() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert min(map(len, keys)) >= 40
