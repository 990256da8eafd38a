"""What a claim costs does not depend on when the tables were analysed last.

A platform that keeps up has a long history and empty queues, and that is what its statistics say when a queue fills.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, get_args
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import billing.repository.ledger
import gateway.repository
import generation.repository.attempts
import generation.repository.callbacks
import generation.repository.early_cancels
import generation.repository.fair_queue
import generation.repository.sweep
import generation.repository.timers
import payments.repository.due_work
import payments.repository.payments
import payments.repository.provider_events
import payments.repository.refunds
import storage.repository
from contracts.message import Service
from contracts.payments import PROVIDERS
from messaging.dead_letters import DeadLetters
from messaging.leases import Claim, LeasedTable
from messaging.outbox import Outbox
from payments.repository.leases import PAYMENTS
from storage.tables import VERIFICATIONS
from tests.gateway.harness import order_of
from tests.generation.orders import ENDPOINT, configure
from tests.support.databases import MakeDatabase
from tests.support.plans import Call, PlanHarness, transaction_on

Analysed = Literal["empty", "quiet", "full"]
"""When the tables were analysed: before there was anything, when the queue was empty, or when it had filled."""

HISTORY: Final = 2_000
QUEUED: Final = 2_000
BATCH: Final = 50
LEASE: Final = timedelta(seconds=20)
MAX_BUFFERS: Final = 1_500
"""For a claim of 50. A claim that walks the queue once for each row touches more than 20,000."""

BEYOND_THE_LIMIT: Final = order_of(UUID("c4ca4238-a0b9-2382-0dcc-509a6f75849b"))
USERS: Final = 100
ANYBODY: Final = "md5((n % 100)::text)::uuid"

ORDERS: Final = f"""
    INSERT INTO generation.video_generations (
        generation_id, user_id, model_id, kind, endpoint, lane, price_credits, parameters, uploads, status, version,
        ready, inputs_ready, attempt_count, failures, requested_at, enqueued_at, next_attempt_at, expires_at,
        deadline_at, finished_at, expected_width_pixels, expected_height_pixels, max_size_bytes, output_extension,
        execution_timeout_seconds)
    SELECT uuidv7(), {ANYBODY}, 'wan-2.2-t2v', 'video', '{ENDPOINT}',
           (ARRAY['pro', 'standard', 'free'])[1 + n % 3], 30, '{{{{}}}}', '{{{{}}}}',
           {{status}}, 1, {{ready}}, true, 0, 0, now(), now(), now() - make_interval(secs => n), now(),
           now() - make_interval(secs => n), {{finished_at}}, 832, 480, 1000000, 'mp4', 600
    FROM generate_series(1, :rows) AS n
"""
ENDED_ORDERS: Final = ORDERS.format(status="'cancelled'", ready="false", finished_at="now()")
READY_ORDERS: Final = ORDERS.format(status="'queued'", ready="true", finished_at="NULL")
WAITING_ORDERS: Final = ORDERS.format(status="'queued'", ready="false", finished_at="NULL")
USER_QUEUES: Final = """
    INSERT INTO generation.user_queues (endpoint, lane, user_id, ready_count, active_count, active_cap)
    SELECT endpoint, lane, user_id, count(*) FILTER (WHERE ready), 0, 8 FROM generation.video_generations
    GROUP BY 1, 2, 3
    ON CONFLICT (endpoint, lane, user_id) DO UPDATE SET ready_count = excluded.ready_count
"""
ATTEMPTS: Final = """
    INSERT INTO generation.attempts (
        attempt_id, generation_id, attempt_number, endpoint, endpoint_id, status, fence_token, prepared_at, check_at,
        ended_at, provider_job_id, cancel_due_at)
    SELECT uuidv7(), generation_id, 1, endpoint, 'id', {status}, 1, now(), now(), {ended_at}, 'job', {cancel_due_at}
    FROM generation.video_generations AS g
    WHERE NOT EXISTS (SELECT FROM generation.attempts AS a WHERE a.generation_id = g.generation_id)
"""
ENDED_ATTEMPTS: Final = ATTEMPTS.format(status="'cancelled'", ended_at="now()", cancel_due_at="NULL")
LIVE_ATTEMPTS: Final = ATTEMPTS.format(status="'running'", ended_at="NULL", cancel_due_at="NULL")
ABANDONED_ATTEMPTS: Final = ATTEMPTS.format(status="'lost'", ended_at="now()", cancel_due_at="now()")
CALLBACKS: Final = """
    INSERT INTO generation.provider_callbacks (
        callback_id, attempt_id, source, body, body_sha256, due_at, processed_at, carries_file)
    SELECT uuidv7(), {attempt}, 'webhook', '{{}}', uuid_send(gen_random_uuid()), {due_at}, {processed_at}, {file}
    FROM generate_series(1, :rows) AS n
"""
PROCESSED_CALLBACKS: Final = CALLBACKS.format(
    attempt="uuidv7()", due_at="NULL", processed_at="now() - interval '1 hour'", file="n % 2 = 0"
)
DUE_CALLBACKS: Final = CALLBACKS.format(
    attempt="(SELECT attempt_id FROM generation.attempts OFFSET n % 50 LIMIT 1)",
    due_at="now()",
    processed_at="NULL",
    file="false",
)
DUE_CARRIERS: Final = CALLBACKS.format(attempt="uuidv7()", due_at="now()", processed_at="NULL", file="true")
EARLY_CANCELS: Final = """
    INSERT INTO generation.cancellations (generation_id, user_id, requested_at)
    SELECT generation_id, user_id, now() FROM generation.video_generations WHERE ready
"""
VERIFICATIONS_SQL: Final = f"""
    INSERT INTO storage.verifications (
        message_id, subject, generation_id, user_id, payload, next_try_at, answered_at, answer)
    SELECT uuidv7(), 'any', uuidv7(), {ANYBODY}, '{{{{}}}}', {{next_try_at}}, {{answered_at}}, NULL
    FROM generate_series(1, :rows) AS n
"""
PAYMENTS_SQL: Final = f"""
    INSERT INTO payments.payment_transactions (
        payment_id, user_id, provider, provider_reference, status, pack_id, price_cents, currency, credits,
        bonus_credits, created_at, expires_at, next_look_at)
    SELECT uuidv7(), {ANYBODY}, 'stripe', uuidv7()::text, {{status}}, 'small', 1000, 'usd', 100, 0, now(), now(),
           {{next_look_at}}
    FROM generate_series(1, :rows) AS n
"""
REFUNDS_SQL: Final = """
    INSERT INTO payments.refunds (
        refund_id, payment_id, provider, provider_reference, amount_cents, state, actor, next_try_at)
    SELECT uuidv7(), payment_id, provider, {reference}, 1, {state}, 'operator', {next_try_at}
    FROM payments.payment_transactions AS p
    WHERE NOT EXISTS (SELECT FROM payments.refunds AS r WHERE r.payment_id = p.payment_id)
"""
EVENTS_SQL: Final = """
    INSERT INTO payments.provider_events (
        provider, event_id, event_type, body, source, matched_at, next_match_at)
    SELECT 'stripe', uuidv7()::text, 'any', '{{}}', 'webhook', {matched_at}, {next_match_at}
    FROM generate_series(1, :rows) AS n
"""
ENDED_PAYMENTS: Final = PAYMENTS_SQL.format(status="'expired'", next_look_at="NULL")
OPEN_PAYMENTS: Final = PAYMENTS_SQL.format(status="'pending'", next_look_at="now()")
OPEN_ACCOUNTS: Final = f"""
    INSERT INTO billing.users (user_id) SELECT DISTINCT {ANYBODY} FROM generate_series(1, :rows) AS n
    ON CONFLICT DO NOTHING
"""
GRANTS_SQL: Final = f"""
    INSERT INTO billing.grants (
        grant_id, content_hash, user_id, amount_credits, remaining_credits, reason, actor, expires_at, granted_at)
    SELECT uuidv7(), '', {ANYBODY}, 10, {{remaining}}, 'signup', 'test', now() - make_interval(secs => n), now()
    FROM generate_series(1, :rows) AS n
"""
RESERVATIONS_SQL: Final = f"""
    INSERT INTO billing.reservations (
        reservation_id, generation_id, user_id, amount_credits, status, deadline_at, reserved_at, resolved_at)
    SELECT uuidv7(), uuidv7(), {ANYBODY}, 10, {{status}}, now() - make_interval(secs => n), now(), {{resolved_at}}
    FROM generate_series(1, :rows) AS n
"""
OUTBOX_SQL: Final = """
    INSERT INTO gateway.outbox_messages (message_id, subject, stream, payload, correlation_id, created_at, published_at)
    SELECT uuidv7(), 'any', 'GATEWAY', '{{}}', uuidv7(), now() - interval '1 minute', {published_at}
    FROM generate_series(1, :rows)
"""
LETTERS_SQL: Final = """
    INSERT INTO gateway.dead_letters (
        consumer, message_id, subject, stream, payload, headers, reason, error, deliveries, replay_requested_at,
        replayed_at)
    SELECT 'consumer', uuidv7(), 'any', 'GATEWAY', '{{}}', '{{}}', 'poison', '', 5, now(), {replayed_at}
    FROM generate_series(1, :rows)
"""
GENERATIONS_SQL: Final = f"""
    INSERT INTO gateway.generations (
        generation_id, user_id, status, model_id, kind, parameters, price_credits, lane, requested_at, expires_at)
    SELECT uuidv7(), {ANYBODY}, {{status}}, 'flux-schnell', 'image', '{{{{}}}}', 1, 'pro', now(), now()
    FROM generate_series(1, :rows) AS n
"""


async def _extend(connection: AsyncConnection, table: LeasedTable) -> None:
    """Extend the leases of some rows, and complete and release them: what a worker does with what it has claimed."""
    [key] = table.table.primary_key.columns
    found = await connection.execute(table.table.select().with_only_columns(key).limit(BATCH))
    claims = [Claim((row[0],), 0, 1) for row in found]
    await table.extend(connection, claims, LEASE)
    await table.release(connection, claims)


@dataclass(frozen=True, slots=True)
class Case:
    """A claim, and the rows of its tables that are history or wait to be claimed."""

    service: Service
    history: tuple[str, ...]
    queue: tuple[str, ...]
    call: Call
    claims: int = BATCH
    buffers: int = MAX_BUFFERS

    @property
    def tables(self) -> set[str]:
        """The tables that the case fills."""
        return {statement.split("INSERT INTO ")[1].split()[0] for statement in (*self.history, *self.queue)}


CASES: Final[Mapping[str, Case]] = {
    "orders": Case(
        "generation",
        (ENDED_ORDERS, ENDED_ATTEMPTS, USER_QUEUES),
        (READY_ORDERS, USER_QUEUES),
        lambda at: generation.repository.fair_queue.claim_orders(
            at, ENDPOINT, [uuid4() for _ in range(BATCH)], send_within_seconds=5, probe_seconds=20
        ),
        buffers=5_000,
    ),
    "attempt_checks": Case(
        "generation",
        (ENDED_ORDERS, ENDED_ATTEMPTS),
        (READY_ORDERS, LIVE_ATTEMPTS),
        lambda at: generation.repository.attempts.take_due_checks(at, BATCH, 60.0),
    ),
    "cancels_of_jobs": Case(
        "generation",
        (ENDED_ORDERS, ENDED_ATTEMPTS),
        (READY_ORDERS, ABANDONED_ATTEMPTS),
        lambda at: generation.repository.attempts.take_due_cancels(at, BATCH),
    ),
    "callbacks": Case(
        "generation",
        (ENDED_ORDERS, ENDED_ATTEMPTS, PROCESSED_CALLBACKS),
        (DUE_CALLBACKS,),
        lambda at: generation.repository.callbacks.lock_due_callbacks(at, BATCH),
    ),
    "callbacks_with_files": Case(
        "generation",
        (ENDED_ORDERS, ENDED_ATTEMPTS, PROCESSED_CALLBACKS),
        (DUE_CARRIERS,),
        lambda at: generation.repository.callbacks.claim_carriers(at, BATCH, LEASE),
    ),
    "old_callbacks": Case(
        "generation",
        (DUE_CARRIERS,),
        (PROCESSED_CALLBACKS,),
        lambda at: generation.repository.callbacks.purge_callbacks(at, 60.0, BATCH),
    ),
    "early_cancels": Case(
        "generation",
        (ENDED_ORDERS,),
        (READY_ORDERS, EARLY_CANCELS),
        lambda at: generation.repository.early_cancels.lock_early_cancels(at, BATCH),
    ),
    "what_is_due": Case(
        "generation",
        (ENDED_ORDERS, ENDED_ATTEMPTS, PROCESSED_CALLBACKS, USER_QUEUES),
        (READY_ORDERS, LIVE_ATTEMPTS, USER_QUEUES),
        lambda at: generation.repository.sweep.find_due(at),
        claims=1,
    ),
    "overdue_orders": Case(
        "generation",
        (ENDED_ORDERS,),
        (READY_ORDERS,),
        lambda at: generation.repository.timers.lock_overdue(at, BATCH),
    ),
    "retries": Case(
        "generation",
        (ENDED_ORDERS,),
        (WAITING_ORDERS,),
        lambda at: generation.repository.timers.lock_retries(at, BATCH),
    ),
    "verifications": Case(
        "storage",
        (VERIFICATIONS_SQL.format(next_try_at="NULL", answered_at="now()"),),
        (VERIFICATIONS_SQL.format(next_try_at="now()", answered_at="NULL"),),
        lambda at: storage.repository.claim_due(at, ["any"], BATCH, LEASE),
    ),
    "leases_of_verifications": Case(
        "storage",
        (VERIFICATIONS_SQL.format(next_try_at="NULL", answered_at="now()"),),
        (VERIFICATIONS_SQL.format(next_try_at="now()", answered_at="NULL"),),
        lambda at: _extend(at, VERIFICATIONS),
    ),
    "payments": Case(
        "payments",
        (ENDED_PAYMENTS,),
        (OPEN_PAYMENTS,),
        lambda at: payments.repository.payments.claim_due(at, "stripe", BATCH, LEASE),
    ),
    "leases_of_payments": Case(
        "payments",
        (ENDED_PAYMENTS,),
        (OPEN_PAYMENTS,),
        lambda at: _extend(at, PAYMENTS),
    ),
    "refunds": Case(
        "payments",
        (ENDED_PAYMENTS, REFUNDS_SQL.format(reference="uuidv7()::text", state="'succeeded'", next_try_at="NULL")),
        (OPEN_PAYMENTS, REFUNDS_SQL.format(reference="NULL", state="'requested'", next_try_at="now()")),
        lambda at: payments.repository.refunds.claim_refunds(at, "stripe", BATCH, LEASE),
    ),
    "provider_events": Case(
        "payments",
        (EVENTS_SQL.format(matched_at="now()", next_match_at="NULL"),),
        (EVENTS_SQL.format(matched_at="NULL", next_match_at="now()"),),
        lambda at: payments.repository.provider_events.claim_unmatched(at, "stripe", BATCH, LEASE),
    ),
    "what_is_due_at_providers": Case(
        "payments",
        (
            ENDED_PAYMENTS,
            REFUNDS_SQL.format(reference="uuidv7()::text", state="'succeeded'", next_try_at="NULL"),
            EVENTS_SQL.format(matched_at="now()", next_match_at="NULL"),
        ),
        (
            OPEN_PAYMENTS,
            REFUNDS_SQL.format(reference="NULL", state="'requested'", next_try_at="now()"),
            EVENTS_SQL.format(matched_at="NULL", next_match_at="now()"),
        ),
        lambda at: payments.repository.due_work.find_due(at, PROVIDERS),
        claims=1,
    ),
    "grants_that_expire": Case(
        "billing",
        (OPEN_ACCOUNTS, GRANTS_SQL.format(remaining="0")),
        (GRANTS_SQL.format(remaining="10"),),
        lambda at: billing.repository.ledger.find_users_with_due_grants(at, BATCH, []),
    ),
    "overdue_reservations": Case(
        "billing",
        (OPEN_ACCOUNTS, RESERVATIONS_SQL.format(status="'released'", resolved_at="now()")),
        (RESERVATIONS_SQL.format(status="'held'", resolved_at="NULL"),),
        lambda at: billing.repository.ledger.find_overdue_generations(at, BATCH),
    ),
    "outbox": Case(
        "gateway",
        (OUTBOX_SQL.format(published_at="now()"),),
        (OUTBOX_SQL.format(published_at="NULL"),),
        lambda at: Outbox("gateway").lock_unpublished(at, BATCH, 0.5, [], []),
    ),
    "dead_letters": Case(
        "gateway",
        (LETTERS_SQL.format(replayed_at="now()"),),
        (LETTERS_SQL.format(replayed_at="NULL"),),
        lambda at: DeadLetters("gateway").lock_requested(at, "consumer"),
        claims=1,
    ),
    "open_generations": Case(
        "gateway",
        (GENERATIONS_SQL.format(status="'completed'"),),
        (GENERATIONS_SQL.format(status="'queued'"),),
        lambda at: gateway.repository.add_order(transaction_on(at, "gateway"), [BEYOND_THE_LIMIT], "key", b"", 0),
        claims=1,
    ),
}


class QueueHarness:
    """One service's database whose tables are filled and analysed anew for each measurement."""

    def __init__(self, engine: AsyncEngine, service: Service) -> None:
        self._engine = engine
        self._service = service
        self._tables = sorted({name for case in CASES.values() if case.service == service for name in case.tables})

    async def measure(self, case: Case, analysed: Analysed) -> int:
        """The pages that the claim touches when the tables were analysed last at that moment."""
        await self._empty()
        async with self._engine.connect() as connection:
            plans = PlanHarness(self._engine, connection)
            if analysed == "empty":
                await self._analyse()
            await self._fill(case.history, HISTORY)
            if analysed == "quiet":
                await self._analyse()
            await plans.prepare(case.call)
            await self._fill(case.queue, QUEUED)
            if analysed == "full":
                await self._analyse()
            explained = await plans.explain(case.call)
        assert explained[-1].rows in (case.claims, 0), "the last statement claims, or records what was claimed"
        return sum(one.buffers for one in explained)

    async def _empty(self) -> None:
        async with self._engine.begin() as connection:
            # Past the triggers that keep the ledger append-only.
            await connection.execute(text("SET LOCAL session_replication_role = replica"))
            await connection.execute(text(f"TRUNCATE {', '.join(self._tables)} CASCADE"))
            if self._service == "generation":
                await configure(connection)

    async def _fill(self, statements: tuple[str, ...], rows: int) -> None:
        async with self._engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement), {"rows": rows} if ":rows" in statement else {})

    async def _analyse(self) -> None:
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text(f"VACUUM ANALYZE {', '.join(self._tables)}"))


@pytest.mark.parametrize("service", sorted({case.service for case in CASES.values()}))
async def test_a_claim_costs_the_same_whenever_the_tables_were_analysed(
    make_database: MakeDatabase, service: Service
) -> None:
    harness = QueueHarness((await make_database(service)).superuser_engine(), service)
    buffers = {
        name: {analysed: await harness.measure(case, analysed) for analysed in get_args(Analysed)}
        for name, case in CASES.items()
        if case.service == service
    }
    assert {name: found for name, found in buffers.items() if max(found.values()) > CASES[name].buffers} == {}
