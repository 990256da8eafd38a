"""The migrations make exactly the tables that the code knows, and the running role may do no more than it needs."""

from collections.abc import Awaitable, Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from payments.tables import metadata
from tests.support.databases import Database
from tests.support.schemas import table_differences


async def test_the_migrations_make_the_tables_that_the_code_knows(
    make_database: Callable[..., Awaitable[Database]],
) -> None:
    database = await make_database("payments")
    assert await table_differences(database, metadata) == []


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM payments.payment_transactions",
        "DELETE FROM payments.credit_movements",
        "DELETE FROM payments.provider_events",
        "TRUNCATE payments.reviews",
        "DROP TABLE payments.sweeps",
        "CREATE TABLE payments.more (id int)",
        "SELECT * FROM billing.users",
    ],
)
async def test_the_running_role_cannot_do_what_it_need_not(
    make_database: Callable[..., Awaitable[Database]], statement: str
) -> None:
    database = await make_database("payments")
    async with database.engine("payments").connect() as connection:
        with pytest.raises(DBAPIError):
            await connection.execute(sa.text(statement))
