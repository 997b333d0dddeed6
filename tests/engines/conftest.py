"""The engine under test: one start for all tests, since a real one takes a minute."""

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.engines.serving import until
from tests.engines.subjects import SUBJECTS, Subject

_REAL = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # vLLM's own, raised inside its request handlers
]
_ENGINES = ["simulated", "remote", pytest.param("vllm", marks=_REAL)]


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=_ENGINES)
async def served(request: pytest.FixtureRequest) -> AsyncGenerator[Subject]:
    async with SUBJECTS[request.param]() as subject:
        yield subject


@pytest_asyncio.fixture(loop_scope="session")
async def subject(served: Subject) -> AsyncGenerator[Subject]:
    """Every test ends at rest."""
    served.metering.meters.clear()
    yield served
    await until(served.at_rest)


@pytest_asyncio.fixture(loop_scope="session")
async def client(subject: Subject) -> AsyncGenerator[AsyncOpenAI]:
    async with subject.client() as client:
        yield client
