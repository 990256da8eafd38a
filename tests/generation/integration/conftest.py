"""The workbench on a database of each test's own."""

from collections.abc import Awaitable, Callable

import pytest

from tests.generation.bench import Bench
from tests.support.databases import Database


@pytest.fixture
async def bench(make_database: Callable[..., Awaitable[Database]]) -> Bench:
    """Handlers and tables of generation, with its endpoints configured."""
    made = Bench(await make_database("generation"))
    await made.configure()
    return made
