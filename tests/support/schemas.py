"""The tables that migrations make, held against the tables that the code declares."""

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tests.support.databases import Database

MESSAGING = ("outbox_", "inbox_", "dead_", "delivery_", "relay_", "alembic_")


async def schema_differences(database: Database, metadata: sa.MetaData) -> list[object]:
    """Everything in which the schema of ``metadata`` and the database differ, without the tables of messaging."""

    def ours(name: str | None, kind: str, _parents: object) -> bool:
        if kind == "schema":
            return name == metadata.schema
        return kind != "table" or not (name or "").startswith(MESSAGING)

    def compared(connection: sa.Connection) -> list[object]:
        options = {"include_schemas": True, "include_name": ours, "compare_type": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    async with database.superuser_engine().connect() as connection:
        return await connection.run_sync(compared)


async def table_differences(database: Database, metadata: sa.MetaData) -> list[object]:
    """The tables, columns and types that differ; indexes, constraints and comments may stand in migrations alone."""
    kinds = ("add_table", "remove_table", "add_column", "remove_column")
    return [
        difference
        for difference in await schema_differences(database, metadata)
        if isinstance(difference, list) or (isinstance(difference, tuple) and difference[0] in kinds)
    ]
