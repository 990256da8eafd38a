"""The claim stays cheap however long the queue is: its plan walks indexes and touches few pages."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from generation.repository.fair_queue import CLAIM
from tests.generation.orders import ENDPOINT, configure
from tests.support.databases import Database

USERS, ORDERS, BATCH = 1_000, 100_000, 100
MAX_BUFFERS = 5_000
"""Pages of 8 KiB touched for 100 orders of up to 300 users; measured 3,400. The orders alone have more than 6,000."""

QUEUE_TABLES = {"user_queues", "video_generations"}

FILL_ORDERS = text("""
    INSERT INTO generation.video_generations (
        generation_id, user_id, model_id, kind, endpoint, lane, price_credits, parameters, uploads, status, version,
        ready, inputs_ready, attempt_count, failures, requested_at, enqueued_at, next_attempt_at, expires_at,
        deadline_at, expected_width_pixels, expected_height_pixels, max_size_bytes, output_extension,
        execution_timeout_seconds)
    SELECT gen_random_uuid(), md5('user ' || n % :users)::uuid, 'wan-2.2-t2v', 'video', :endpoint,
           (ARRAY['pro', 'standard', 'free'])[1 + n % :users % 3], 30,
           '{"prompt": "a lighthouse in a storm at dusk, waves, film grain", "seed": 1}', '{}', 'queued', 1,
           true, true, 0, 0, now(), now() - make_interval(secs => :orders - n), now(), now() + interval '1 day',
           now() + interval '1 day', 832, 480, 1000000, 'mp4', 600
    FROM generate_series(1, CAST(:orders AS integer)) AS n
""")
FILL_USERS = text("""
    INSERT INTO generation.user_queues (endpoint, lane, user_id, ready_count, active_count, active_cap)
    SELECT endpoint, lane, user_id, count(*), 0, 4 FROM generation.video_generations GROUP BY 1, 2, 3
""")


async def fill_queue(connection: AsyncConnection) -> None:
    await configure(connection)
    await connection.execute(FILL_ORDERS, {"users": USERS, "orders": ORDERS, "endpoint": ENDPOINT})
    await connection.execute(FILL_USERS)


async def explain(connection: AsyncConnection) -> dict[str, Any]:
    """As the service executes it: with one plan for all parameters."""
    types = {
        "endpoint": "text",
        "batch": "bigint",
        "attempt_ids": "uuid[]",
        "send_within_seconds": "double precision",
        "probe_seconds": "double precision",
    }
    values = {
        "endpoint": f"'{ENDPOINT}'",
        "batch": str(BATCH),
        "attempt_ids": f"'{{{','.join(str(uuid4()) for _ in range(BATCH))}}}'",
        "send_within_seconds": "5",
        "probe_seconds": "20",
    }
    await connection.exec_driver_sql(f"PREPARE claim ({', '.join(types[name] for name in CLAIM.names)}) AS {CLAIM.sql}")
    given = ", ".join(values[name] for name in CLAIM.names)
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE claim ({given})"
    [[plan]] = (await connection.exec_driver_sql(explain)).all()
    return plan[0]  # type: ignore[no-any-return]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def test_claiming_100_of_100000_orders_walks_indexes_only(
    make_database: Callable[..., Awaitable[Database]],
) -> None:
    database = await make_database("generation")
    async with database.superuser_engine().connect() as connection:
        await fill_queue(connection)
        await connection.commit()
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE generation.video_generations, generation.user_queues"))
    async with database.engine("generation").connect() as connection:
        explained = await explain(connection)
    plan = explained["Plan"]
    read = [node for node in nodes(plan) if node.get("Relation Name") in QUEUE_TABLES and "Scan" in node["Node Type"]]
    # A bitmap of the keys that were chosen is a walk along the key's index, too.
    assert {node["Node Type"] for node in read} <= {
        "Index Scan",
        "Index Only Scan",
        "Bitmap Index Scan",
        "Bitmap Heap Scan",
    }
    assert all(node["Actual Rows"] <= BATCH for node in read), "no scan walks a whole queue"
    assert plan["Actual Rows"] == BATCH
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < MAX_BUFFERS
