"""The migrations make exactly the tables that the code knows, and the running role may do no more than it needs."""

from collections.abc import Awaitable, Callable

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from payments.tables import SCHEMA, metadata
from tests.support.databases import Database

MESSAGING = ("outbox_", "inbox_", "dead_", "delivery_", "relay_", "alembic_")


def differences(connection: Connection) -> list[object]:
    def ours(name: str | None, kind: str, _parents: object) -> bool:
        if kind == "schema":
            return name == SCHEMA
        return kind != "table" or not str(name).startswith(MESSAGING)

    options = {"include_schemas": True, "include_name": ours, "compare_type": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


async def test_the_migrations_make_the_tables_that_the_code_knows(
    make_database: Callable[..., Awaitable[Database]],
) -> None:
    database = await make_database("payments")
    async with database.superuser_engine().connect() as connection:
        found = await connection.run_sync(differences)
    # Indexes, constraints and comments are written in the migrations alone.
    kinds = ("add_table", "remove_table", "add_column", "remove_column")
    assert [one for one in found if isinstance(one, list) or (isinstance(one, tuple) and one[0] in kinds)] == []


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
