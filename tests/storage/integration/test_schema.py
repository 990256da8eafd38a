"""The migrations create the tables that the code declares, and the role has no more rights than it needs."""

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError

from storage.tables import metadata
from tests.storage.integration.conftest import StorageHarness
from tests.support.schemas import table_differences


async def test_the_database_has_every_declared_table_and_column(
    storage: StorageHarness,
) -> None:
    assert await table_differences(storage.database, metadata) == []


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
