"""The migrations make the tables that ``tables.py`` describes."""

from billing.tables import metadata
from tests.support.databases import Database
from tests.support.schemas import table_differences


async def test_every_table_and_column_of_the_code_is_in_the_database_with_the_same_type(database: Database) -> None:
    assert await table_differences(database, metadata) == []
