"""What a user spent, ever: added up once, whatever order the lines come in."""

from collections.abc import Awaitable, Callable
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import queries
from gateway.queries import REMEMBERED_LINES
from messaging.ids import new_id
from tests.support.databases import Database

ADD_LINES = text("""
    INSERT INTO gateway.ledger_lines (user_id, line_number, transfer_id, reason, available_delta_credits,
        reserved_delta_credits, receivable_delta_credits, available_after_credits, reserved_after_credits,
        receivable_after_credits, occurred_at)
    SELECT :user_id, n, gen_random_uuid(), CASE WHEN n % 2 = 0 THEN 'capture' ELSE 'reserve' END, 0,
           CASE WHEN n % 2 = 0 THEN -3 ELSE 3 END, 0, 0, 0, 0, now()
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
""")


async def add_lines(engine: AsyncEngine, user_id: UUID, first: int, last: int) -> None:
    """Every second line is a capture of 3 credits."""
    async with engine.begin() as connection:
        await connection.execute(ADD_LINES, {"user_id": user_id, "first": first, "last": last})


async def remembered(engine: AsyncEngine, user_id: UUID) -> int | None:
    query = text("SELECT through_line FROM gateway.settled_credits WHERE user_id = :user_id")
    async with engine.connect() as connection:
        through: int | None = await connection.scalar(query, {"user_id": user_id})
    return through


async def settled(engine: AsyncEngine, user_id: UUID) -> int:
    return (await queries.find_balance(engine, user_id))[1]


async def test_lines_are_added_up_once_and_none_that_comes_late_is_lost(
    make_database: Callable[..., Awaitable[Database]],
) -> None:
    engine = (await make_database("gateway")).engine("gateway")
    user_id, most = new_id(), REMEMBERED_LINES
    assert await settled(engine, user_id) == 0
    await add_lines(engine, user_id, 1, most - 2)
    assert await settled(engine, user_id) == 3 * (most - 2) // 2
    assert await remembered(engine, user_id) is None, "a few lines are added up each time"
    # The next two are missing.
    await add_lines(engine, user_id, most + 1, most + 2)
    assert await settled(engine, user_id) == 3 * most // 2
    assert await remembered(engine, user_id) is None, "what is missing below would be forgotten"
    await add_lines(engine, user_id, most - 1, most)
    for _ in range(2):
        assert await settled(engine, user_id) == 3 * (most + 2) // 2
        assert await remembered(engine, user_id) == most + 2
    await add_lines(engine, user_id, most + 3, 3 * most)
    for _ in range(2):
        assert await settled(engine, user_id) == 3 * 3 * most // 2
        assert await remembered(engine, user_id) == 3 * most
