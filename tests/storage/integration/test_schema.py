"""The migrations create the tables that the code declares, and the role has no more rights than it needs."""

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import ProgrammingError

from storage.tables import SCHEMA, metadata
from tests.storage.integration.conftest import StorageHarness

MESSAGING = ("outbox_", "inbox_", "dead_", "delivery_", "relay_", "alembic_")


def _differences(connection: sa.Connection) -> list[object]:
    def ours(name: str | None, kind: str, parents: object) -> bool:
        if kind == "schema":
            return name == SCHEMA
        return kind != "table" or not (name or "").startswith(MESSAGING)

    options = {"include_schemas": True, "include_name": ours, "compare_type": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


async def test_the_database_has_every_declared_table_and_column(
    storage: StorageHarness,
) -> None:
    async with storage.database.superuser_engine().connect() as connection:
        differences = await connection.run_sync(_differences)
    # Indexes, constraints and comments are written in the migrations alone.
    kinds = ("add_table", "remove_table", "add_column", "remove_column")
    wrong = [one for one in differences if isinstance(one, list) or (isinstance(one, tuple) and one[0] in kinds)]
    assert wrong == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE storage.assets SET sha256 = ''",
        "DELETE FROM storage.assets",
        "DELETE FROM storage.verifications",
        "TRUNCATE storage.uploads",
    ],
)
async def test_the_service_cannot_change_assets_or_delete_rows(storage: StorageHarness, statement: str) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        async with storage.transactions.begin() as tx:
            await tx.connection.execute(sa.text(statement))
