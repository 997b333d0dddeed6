"""Which adapters a pool serves: public names onto immutable versions.

A version is `name@digest`: other weights are another version, so an engine never re-uses cached blocks of old ones.
"""

from pydantic import Field

from policies.section import Section


class AdapterConfig(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")
    """The model name that callers use."""

    source: str
    """A folder with adapter_config.json and adapter_model.safetensors, or `demo:NAME` for one trained here."""


def version_of(name: str, digest: str) -> str:
    """The id under which an engine knows these weights; `digest` is the hex SHA-256 of the adapter's files."""
    return f"{name}@{digest[:16]}"
