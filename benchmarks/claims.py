"""What it costs to claim the next orders when a queue fills after a long quiet, and when the tables are analysed then.

    python -m benchmarks.claims [--history 50000] [--queued 100000]

The tables hold a long history of ended orders, were analysed while the queue was empty, and then many orders of 1,000
users come at once: the statistics say that there is no queue. Autovacuum is off, so that they stay as they are. The
claim is the dispatcher's, executed as a pooled connection of the service executes it; pages are of 8 KiB. The same is
measured again after ``ANALYZE``, and for a table without any statistics.
"""

import argparse
import asyncio
import sys

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from generation.repository.fair_queue import Claim, claim_orders
from local_platform.servers import PostgresServer
from messaging.ids import new_id
from tests.generation.orders import ENDPOINT, configure
from tests.support.databases import Database, DatabaseFactory
from tests.support.folders import removed_at_exit
from tests.support.plans import Explained, PlanHarness

BATCH = 100
USERS = 1_000
MOST_BUFFERS = 10_000

ORDERS = """
    INSERT INTO generation.video_generations (
        generation_id, user_id, model_id, kind, endpoint, lane, price_credits, parameters, uploads, status, version,
        ready, inputs_ready, attempt_count, failures, requested_at, enqueued_at, next_attempt_at, expires_at,
        deadline_at, finished_at, expected_width_pixels, expected_height_pixels, max_size_bytes, output_extension,
        execution_timeout_seconds)
    SELECT uuidv7(), md5('user ' || n % :users)::uuid, 'wan-2.2-t2v', 'video', :endpoint,
           (ARRAY['pro', 'standard', 'free'])[1 + n % :users % 3], 30, '{"prompt": "a lighthouse in a storm"}', '{}',
           CASE WHEN :queued THEN 'queued' ELSE 'cancelled' END, 1, :queued, true, 0, 0, now(), now(), now(),
           now() + interval '1 day', now() + interval '1 day', CASE WHEN :queued THEN NULL ELSE now() END,
           832, 480, 1000000, 'mp4', 600
    FROM generate_series(1, CAST(:rows AS integer)) AS n
"""
QUEUES = """
    INSERT INTO generation.user_queues (endpoint, lane, user_id, ready_count, active_count, active_cap)
    SELECT endpoint, lane, user_id, count(*) FILTER (WHERE ready), 0, 8 FROM generation.video_generations
    GROUP BY 1, 2, 3 ON CONFLICT (endpoint, lane, user_id) DO UPDATE SET ready_count = excluded.ready_count
"""


async def claim(connection: AsyncConnection) -> Claim:
    """One claim of the dispatcher."""
    ids = [new_id() for _ in range(BATCH)]
    return await claim_orders(connection, ENDPOINT, ids, send_within_seconds=5.0, probe_seconds=20.0)


async def fill(engine: AsyncEngine, rows: int, *, queued: bool) -> None:
    """Add orders that wait, or that have ended."""
    async with engine.begin() as connection:
        values = {"users": USERS, "endpoint": ENDPOINT, "rows": rows, "queued": queued}
        await connection.execute(text(ORDERS), values)
        await connection.execute(text(QUEUES))


async def analyse(engine: AsyncEngine) -> None:
    """What autovacuum does now and then."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE generation.video_generations, generation.user_queues"))


async def measure(database: Database, history: int, queued: int, *, analysed: bool) -> tuple[int, int]:
    """Pages for a claim after the queue has filled, and after the tables were analysed once more."""
    engine = database.superuser_engine()
    async with engine.begin() as connection:
        for table in ("video_generations", "user_queues", "attempts"):
            await connection.execute(text(f"ALTER TABLE generation.{table} SET (autovacuum_enabled = off)"))
        await configure(connection)
    async with engine.connect() as connection:
        plans = PlanHarness(engine, connection)
        await fill(engine, history, queued=False)
        if analysed:
            await analyse(engine)
        await plans.prepare(claim)
        await fill(engine, queued, queued=True)
        before = _pages(await plans.explain(claim))
        await analyse(engine)
        after = _pages(await plans.explain(claim))
    await database.dispose()
    return before, after


def _pages(explained: list[Explained]) -> int:
    return sum(one.buffers for one in explained)


async def run(history: int, queued: int) -> bool:
    """Print the table; whether the worst claim is within its bound."""
    with removed_at_exit("reelhouse-claims-") as folder:
        server = PostgresServer(folder)
        await server.start()
        try:
            factory = DatabaseFactory(server)
            quiet, after = await measure(await factory.make(("generation",)), history, queued, analysed=True)
            never, _ = await measure(await factory.make(("generation",)), history, queued, analysed=False)
        finally:
            await server.stop("immediate")
    print(f"a claim of {BATCH} of {queued:,} queued orders, after {history:,} that have ended:")
    for statistics, pages in (("of an empty queue", quiet), ("none at all", never), ("of the full queue", after)):
        print(f"  statistics {statistics:18} {pages:8,} pages, {pages / BATCH:6.0f} an order")
    return max(quiet, never, after) < MOST_BUFFERS


def main() -> int:
    """Exit code 1 if a claim takes more pages than it may."""
    parser = argparse.ArgumentParser(description="Pages that a claim of the fair queue touches.")
    parser.add_argument("--history", type=int, default=50_000)
    parser.add_argument("--queued", type=int, default=100_000)
    options = parser.parse_args()
    return 0 if asyncio.run(run(options.history, options.queued)) else 1


if __name__ == "__main__":
    sys.exit(main())
