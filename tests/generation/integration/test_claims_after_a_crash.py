"""A claim does not wait for the disk, and is stored all the same before its request leaves."""

from uuid import uuid4

from sqlalchemy import text

from generation.repository.attempts import mark_sending
from generation.repository.fair_queue import claim_orders
from local_platform.servers import PostgresServer
from messaging.ids import new_id
from tests.generation.orders import ENDPOINT, configure, enqueue, new_order
from tests.support.databases import DatabaseFactory

ORDERS = 20


async def test_what_was_marked_as_being_sent_is_claimed_after_a_crash(own_postgres: PostgresServer) -> None:
    database = await DatabaseFactory(own_postgres).make(("generation",))
    engine, marked = database.engine("generation"), set()
    async with engine.begin() as connection:
        await configure(connection)
        await enqueue(connection, [new_order(uuid4()) for _ in range(ORDERS)])
    for _ in range(ORDERS):
        async with engine.begin() as connection:
            claim = await claim_orders(connection, ENDPOINT, [new_id()], send_within_seconds=30, probe_seconds=10)
        (order,) = claim.orders
        async with engine.begin() as connection:
            marked |= await mark_sending(connection, [(order.attempt_id, order.fence_token)], 30)
    await own_postgres.stop("immediate")
    await database.dispose()
    await own_postgres.start()
    async with database.engine("generation").begin() as connection:
        claimed = text("""
            SELECT attempt_id FROM generation.attempts AS a JOIN generation.video_generations AS g USING (generation_id)
            WHERE sending_at IS NOT NULL AND g.status = 'dispatching' AND g.attempt_count = 1
        """)
        assert set(await connection.scalars(claimed)) == marked
        assert len(marked) == ORDERS
    await database.dispose()
