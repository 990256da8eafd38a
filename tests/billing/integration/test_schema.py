"""The migrations make the tables that ``tables.py`` describes."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from billing.tables import SCHEMA, metadata
from tests.support.databases import Database

MESSAGING = ("outbox_", "inbox_", "dead_", "delivery_", "relay_", "alembic_")


def _differences(connection: Connection) -> list[object]:
    def ours(name: str | None, kind: str, parents: object) -> bool:
        if kind == "schema":
            return name == SCHEMA
        return kind != "table" or not (name or "").startswith(MESSAGING)

    options = {"include_schemas": True, "include_name": ours, "compare_type": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


async def test_every_table_and_column_of_the_code_is_in_the_database_with_the_same_type(database: Database) -> None:
    async with database.superuser_engine().connect() as connection:
        differences = await connection.run_sync(_differences)
    # Indexes, constraints and comments are written in the migrations alone.
    kinds = ("add_table", "remove_table", "add_column", "remove_column")
    wrong = [one for one in differences if isinstance(one, list) or (isinstance(one, tuple) and one[0] in kinds)]
    assert wrong == []
