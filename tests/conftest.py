"""What all tests share: nothing but the warnings that are not ours to mend."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # ray.serve.schema of Ray 2.60 declares its fields in a way that pydantic 2.14 deprecates.
    config.addinivalue_line("filterwarnings", "ignore:Using extra keyword arguments on `Field`:DeprecationWarning")
