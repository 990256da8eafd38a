"""The migrations make exactly the tables that the code knows, and the running role may do no more than it needs."""

import re
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy.exc import DBAPIError

from generation.domain.statuses import FINAL_ORDER_STATUSES, LIVE_ATTEMPT_STATUSES
from generation.tables import metadata
from tests.generation.harness import GenerationHarness, order
from tests.support.databases import Database
from tests.support.schemas import schema_differences


async def test_the_migrations_create_the_tables_that_the_code_knows(
    make_database: Callable[..., Awaitable[Database]],
) -> None:
    database = await make_database("generation")
    assert await schema_differences(database, metadata) == []


async def test_the_partial_indexes_know_the_same_states_as_the_code(harness: GenerationHarness) -> None:
    rows = await harness.query(
        "SELECT indexrelid::regclass::text AS name, pg_get_expr(indpred, indrelid) AS condition FROM pg_index"
        " WHERE indrelid IN ('generation.attempts'::regclass, 'generation.video_generations'::regclass)"
        " AND indpred IS NOT NULL"
    )
    conditions = {row.name.removeprefix("generation."): row.condition for row in rows}
    for name, statuses in {
        "attempts_check": LIVE_ATTEMPT_STATUSES,
        "attempts_live": LIVE_ATTEMPT_STATUSES,
        "video_generations_deadline": FINAL_ORDER_STATUSES,
    }.items():
        assert set(re.findall(r"'(\w+)'", conditions[name])) == set(statuses), name


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
async def test_the_runtime_role_may_do_only_what_it_needs(harness: GenerationHarness, statement: str) -> None:
    with pytest.raises(DBAPIError):
        await harness.execute(statement)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE generation.user_queues SET ready_count = -1",
        "UPDATE generation.video_generations SET ready = true, status = 'running'",
        "UPDATE generation.video_generations SET status = 'completed', finished_at = now()",
        "UPDATE generation.video_generations SET status = 'lost in thought'",
    ],
)
async def test_an_impossible_state_is_refused_by_the_database(harness: GenerationHarness, change: str) -> None:
    await harness.enqueue(order())
    with pytest.raises(DBAPIError):
        await harness.execute(change)
