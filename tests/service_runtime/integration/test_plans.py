"""Statements are planned once for all parameters: what a partial index is to match must not be one of them."""

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

import billing.repository.ledger
import gateway.repository
import payments.repository.payments
import payments.repository.refunds
import storage.repository
from tests.gateway.harness import order_of
from tests.support.databases import Database, MakeDatabase
from tests.support.plans import generic_plan, transaction_on

Call = Callable[[AsyncConnection], Awaitable[Any]]

STATEMENTS: dict[str, tuple[str, Call]] = {
    "generations_open": (
        "gateway",
        lambda at: gateway.repository.add_order(transaction_on(at, "gateway"), [order_of(uuid4())], "key", b"", 10),
    ),
    "payments_open_by_user": ("payments", lambda at: payments.repository.payments.count_open(at, uuid4())),
    "payments_due_by_provider": (
        "payments",
        lambda at: payments.repository.payments.claim_due(at, "stripe", 10, timedelta(minutes=1)),
    ),
    "refunds_ordered": (
        "payments",
        lambda at: payments.repository.refunds.claim_refunds(at, "stripe", 10, timedelta(minutes=1)),
    ),
    "grants_to_expire": ("billing", lambda at: billing.repository.ledger.find_users_with_due_grants(at, 10, [])),
    "verifications_due": (
        "storage",
        lambda at: storage.repository.claim_due(at, ["any"], 10, timedelta(minutes=1)),
    ),
    "reservations_by_deadline": ("billing", lambda at: billing.repository.ledger.find_overdue_generations(at, 10)),
}

MANY_ENDED_GENERATIONS = """
    INSERT INTO gateway.generations (
        generation_id, user_id, status, model_id, kind, parameters, price_credits, lane, requested_at, expires_at)
    SELECT gen_random_uuid(), md5((n % 3)::text)::uuid, 'completed', 'flux-schnell', 'image', '{}', 1, 'pro',
           now(), now()
    FROM generate_series(1, 3000) AS n
"""


async def plan_of(database: Database, service: str, call: Call) -> str:
    """How the server will always execute the one statement that ``call`` sends, as JSON."""
    engine = database.engine(service)
    sent: list[str] = []
    event.listen(
        engine.sync_engine, "before_cursor_execute", lambda _connection, _cursor, sql, *_rest: sent.append(sql)
    )
    async with engine.connect() as connection:
        assert await connection.scalar(text("SHOW plan_cache_mode")) == "force_generic_plan"
        sent.clear()
        await call(connection)
    [statement] = sent
    async with database.superuser_engine().connect() as connection:
        # An empty table is read whole otherwise.
        await connection.exec_driver_sql("SET enable_seqscan = off")
        return json.dumps(await generic_plan(connection, statement))


@pytest.mark.parametrize("index", STATEMENTS)
async def test_a_statement_finds_the_partial_index_that_was_made_for_it(
    make_database: MakeDatabase, index: str
) -> None:
    service, call = STATEMENTS[index]
    database = await make_database(service)
    if service == "gateway":
        # Another index begins with the same column: who has many generations of which few are open needs this one.
        async with database.superuser_engine().begin() as connection:
            await connection.execute(text(MANY_ENDED_GENERATIONS))
            await connection.execute(text("ANALYZE gateway.generations"))
    assert index in await plan_of(database, service, call)
