"""The migrations make exactly the tables that the code knows, and the running role may do no more than it needs."""

from collections.abc import Awaitable, Callable

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from generation.tables import SCHEMA, metadata
from tests.generation.bench import Bench, order
from tests.support.databases import Database

MESSAGING = ("outbox_", "inbox_", "dead_", "delivery_", "relay_", "alembic_")


def differences(connection: Connection) -> list[object]:
    def ours(name: str | None, kind: str, _parents: object) -> bool:
        if kind == "schema":
            return name == SCHEMA
        return kind != "table" or not str(name).startswith(MESSAGING)

    context = MigrationContext.configure(
        connection, opts={"include_schemas": True, "include_name": ours, "compare_type": True}
    )
    return list(compare_metadata(context, metadata))


async def test_the_migrations_make_the_tables_that_the_code_knows(
    make_database: Callable[..., Awaitable[Database]],
) -> None:
    database = await make_database("generation")
    async with database.superuser_engine().connect() as connection:
        assert await connection.run_sync(differences) == []


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM generation.video_generations",
        "DELETE FROM generation.attempts",
        "TRUNCATE generation.user_queues",
        "DROP TABLE generation.cancellations",
        "CREATE TABLE generation.more (id int)",
        "SELECT * FROM billing.users",
    ],
)
async def test_the_running_role_cannot_do_what_it_need_not(bench: Bench, statement: str) -> None:
    with pytest.raises(DBAPIError):
        await bench.execute(statement)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE generation.user_queues SET ready_count = -1",
        "UPDATE generation.video_generations SET ready = true, status = 'running'",
        "UPDATE generation.video_generations SET status = 'completed', finished_at = now()",
        "UPDATE generation.video_generations SET status = 'lost in thought'",
    ],
)
async def test_a_state_that_makes_no_sense_is_refused_by_the_database(bench: Bench, change: str) -> None:
    await bench.enqueue(order())
    with pytest.raises(DBAPIError):
        await bench.execute(change)
