"""A database and a ledger for each test."""

from collections.abc import Awaitable, Callable

import pytest

from tests.billing.ledger_harness import LedgerHarness
from tests.support.databases import Database

MakeDatabase = Callable[..., Awaitable[Database]]


@pytest.fixture
async def database(make_database: MakeDatabase) -> Database:
    """A database in which only billing is migrated."""
    return await make_database("billing")


@pytest.fixture
async def ledger(database: Database) -> LedgerHarness:
    """Billing's handlers on that database, as the runtime role."""
    return LedgerHarness(database.engine("billing"))
