"""The SQL of what users ask for: requests, limits, uploads.

Statements that every order executes are built once: building one costs as much as executing it.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.values import GenerationOrder
from gateway.records import (
    GenerationRequestRecord,
    NewPayment,
    NewUpload,
    PaymentRequestRecord,
    RecentUploads,
    RunningCancels,
    Signup,
    TakenWrite,
)
from gateway.statuses import TERMINAL, GenerationStatus
from gateway.tables import (
    balances,
    generation_requests,
    generations,
    payment_requests,
    payments,
    running_cancellations,
    signups,
    uploads,
)
from messaging.outbox import Writes
from messaging.transaction import Transaction
from service_runtime.statements import Statement

_REFILLED: Final = """least(CAST(:per_minute AS float8), b.tokens
    + CAST(extract(epoch FROM now() - b.counted_at) AS float8) * (CAST(:per_minute AS float8) / 60))"""
_TAKE: Final = f"""
    INSERT INTO gateway.write_allowances AS b (user_id, tokens, counted_at)
    SELECT CAST(:user AS uuid), CAST(:per_minute AS float8) - CAST(:count AS float8), now() {{unless}}
    ON CONFLICT (user_id) DO UPDATE
    SET tokens = {_REFILLED} - CAST(:count AS float8), counted_at = now()
    WHERE {_REFILLED} >= CAST(:count AS float8)
    RETURNING b.tokens
"""  # noqa: S608 - the insertions are constants
# The commit does not wait for the disk: after a crash of the server a user may have some writes more.
_TAKE_WRITE: Final = Statement(f"{_TAKE.format(unless='')}, set_config('synchronous_commit', 'off', true)")
_REQUEST: Final = "generation_id, request_hash, verdict, required_credits, available_credits"
_FIND_GENERATION_REQUEST_SQL: Final = f"""
    SELECT {_REQUEST} FROM gateway.generation_requests WHERE user_id = :user AND idempotency_key = :key
"""  # noqa: S608 - the insertion is a constant
_FIND_GENERATION_REQUEST: Final = Statement(_FIND_GENERATION_REQUEST_SQL)
_FIND_REQUEST_OR_TAKE_WRITE: Final = Statement(f"""
    WITH known AS ({_FIND_GENERATION_REQUEST_SQL}),
         taken AS ({_TAKE.format(unless="WHERE NOT EXISTS (SELECT FROM known)")})
    SELECT {_REQUEST}, tokens, now() FROM (VALUES (1)) AS one LEFT JOIN known ON true LEFT JOIN taken ON true
""")  # noqa: S608 - the insertions are constants
_LOCK_ALLOWANCE: Final = Statement("SELECT 1 FROM gateway.write_allowances WHERE user_id = :user FOR UPDATE")
# In the text, so that the planner sees that the index of open generations matches.
_TERMINAL_SQL: Final = ", ".join(f"'{status}'" for status in sorted(TERMINAL))
_terminal: Final[list[sa.ColumnElement[str]]] = [sa.literal_column(f"'{status}'") for status in sorted(TERMINAL)]
_ADD_ORDER: Final = Writes(
    f"""
    requested AS (
        INSERT INTO gateway.generation_requests (generation_id, user_id, idempotency_key, request_hash)
        SELECT CAST(:generation_id AS uuid), CAST(:user AS uuid), CAST(:key AS text), CAST(:request_hash AS bytea)
        WHERE CAST(:most_open AS bigint) >= (
            SELECT count(*) FROM gateway.generations
            WHERE user_id = CAST(:user AS uuid) AND status NOT IN ({_TERMINAL_SQL}))
        ON CONFLICT (user_id, idempotency_key) DO NOTHING
        RETURNING generation_id
    ), ordered AS (
        INSERT INTO gateway.generations
            (generation_id, user_id, status, model_id, kind, parameters, price_credits, lane, requested_at, expires_at,
             start_before_at, variant_of, variant_number, variant_count)
        SELECT o.generation_id, user_id, 'requested', model_id, kind, parameters, price_credits, lane, requested_at,
               expires_at, start_before_at, variant_of, variant_number, variant_count
        FROM requested
        CROSS JOIN jsonb_populate_recordset(CAST(NULL AS gateway.generations), CAST(:orders AS jsonb)) AS o
    )""",  # noqa: S608 - the insertion is a constant
    "EXISTS (SELECT FROM requested)",
    when="EXISTS (SELECT FROM requested)",
)
_ORDER: Final = tuple(name for name in GenerationOrder.__struct_fields__ if name != "uploads")
# In the text, so that the planner sees that the index of unanswered orders matches.
_is_requested: Final = generations.c.status == sa.literal_column("'requested'")
_FIND_UNANSWERED: Final = sa.select(*(generations.c[name] for name in _ORDER)).where(
    generations.c.generation_id == sa.bindparam("id"), _is_requested
)
_deadline = sa.func.least(generations.c.expires_at, generations.c.start_before_at)
_LOCK_OVERDUE: Final = (
    sa.select(*(generations.c[name] for name in _ORDER))
    .join(generation_requests, generation_requests.c.generation_id == generations.c.generation_id)
    .where(
        _is_requested,
        _deadline <= sa.func.now(),
        generations.c.updated_at <= sa.func.now() - timedelta(minutes=1),
        generation_requests.c.verdict.is_(None),
    )
    .order_by(_deadline)
    .limit(sa.bindparam("batch"))
    .with_for_update(of=generations, skip_locked=True)
)

_today: Final = sa.select(sa.func.count()).where(signups.c.requested_at > sa.func.now() - timedelta(days=1))
_HAS_HAD_CREDITS: Final = sa.select(sa.literal(1)).where(balances.c.user_id == sa.bindparam("user", type_=sa.Uuid))
_FIND_SIGNUP: Final = sa.select(
    sa.exists(sa.select(1).where(signups.c.user_id == sa.bindparam("user", type_=sa.Uuid))),
    _HAS_HAD_CREDITS.exists(),
)
_ADD_SIGNUP: Final = (
    insert(signups)
    .from_select(
        ["user_id", "grant_id", "amount_credits"],
        sa.select(
            sa.bindparam("user", type_=sa.Uuid),
            sa.bindparam("grant_id", type_=sa.Uuid),
            sa.bindparam("amount_credits", type_=sa.BigInteger),
        ).where(~_HAS_HAD_CREDITS.exists(), _today.scalar_subquery() < sa.bindparam("most", type_=sa.BigInteger)),
    )
    # Of both constraints: with a target, two that come at the same instant can meet at the other one.
    .on_conflict_do_nothing()
    .returning(signups.c.user_id)
)


_ADD_PAYMENT_REQUEST: Final = (
    insert(payment_requests)
    .on_conflict_do_nothing(index_elements=["user_id", "idempotency_key"])
    .returning(payment_requests.c.created_at)
)
_FIND_PAYMENT_REQUEST: Final = sa.select(payment_requests).where(
    payment_requests.c.user_id == sa.bindparam("user"), payment_requests.c.idempotency_key == sa.bindparam("key")
)


async def get_now(connection: AsyncConnection) -> datetime:
    """The database's clock."""
    now: datetime = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
    return now


async def add_variant_requests(
    connection: AsyncConnection, generation_ids: Sequence[UUID], user_id: UUID, request_hash: bytes
) -> None:
    """Register the further variants of an order, whose key the first one has."""
    rows = [
        {"generation_id": id_, "user_id": user_id, "idempotency_key": None, "request_hash": request_hash}
        for id_ in generation_ids
    ]
    await connection.execute(sa.insert(generation_requests), rows)


async def find_generation_request(
    connection: AsyncConnection, user_id: UUID, key: str
) -> GenerationRequestRecord | None:
    """The order that used this idempotency key of a user."""
    row = await _FIND_GENERATION_REQUEST.fetch_one(connection, {"user": user_id, "key": key})
    return None if row is None else GenerationRequestRecord(*row)


async def find_request_or_take_write(
    connection: AsyncConnection, user_id: UUID, key: str, per_minute: int, count: int
) -> GenerationRequestRecord | TakenWrite:
    """:func:`find_generation_request`; or, if the key is new, :func:`take_write` and :func:`lock_allowance`.

    The commit waits for the disk: an order is part of it.
    """
    values = _writes(user_id, per_minute, count) | {"key": key}
    (row,) = await _FIND_REQUEST_OR_TAKE_WRITE.fetch(connection, values)
    *request, tokens, now = row
    return TakenWrite(tokens, now) if request[0] is None else GenerationRequestRecord(*request)


async def add_payment_request(
    connection: AsyncConnection, payment_id: UUID, user_id: UUID, key: str, request_hash: bytes
) -> datetime | None:
    """Register an idempotency key of a user for a purchase; the time of that, or None if the key was used before.

    Of concurrent requests with one key all but one wait here for the first to commit.
    """
    values = {"payment_id": payment_id, "user_id": user_id, "idempotency_key": key, "request_hash": request_hash}
    at: datetime | None = (await connection.execute(_ADD_PAYMENT_REQUEST, values)).scalar_one_or_none()
    return at


async def find_payment_request(connection: AsyncConnection, user_id: UUID, key: str) -> PaymentRequestRecord | None:
    """The purchase that used this idempotency key of a user."""
    row = (await connection.execute(_FIND_PAYMENT_REQUEST, {"user": user_id, "key": key})).one_or_none()
    if row is None:
        return None
    return PaymentRequestRecord(
        payment_id=row.payment_id,
        request_hash=row.request_hash,
        refusal_code=row.refusal_code,
        refusal_detail=row.refusal_detail,
    )


async def take_write(connection: AsyncConnection, user_id: UUID, per_minute: int) -> float | None:
    """Take a token of the user's bucket, which refills evenly; how many it holds then, or None if it had none.

    Its transaction may hold nothing else that must outlive a crash of the server.
    """
    taken = await _TAKE_WRITE.fetch_one(connection, _writes(user_id, per_minute, count=1))
    return None if taken is None else taken[0]


def _writes(user_id: UUID, per_minute: int, count: int) -> dict[str, Any]:
    return {"user": user_id, "per_minute": float(per_minute), "count": float(count)}


async def lock_allowance(connection: AsyncConnection, user_id: UUID) -> None:
    """Let one request of a user at a time count what the user has, until its transaction ends."""
    await _LOCK_ALLOWANCE.execute(connection, {"user": user_id})


async def find_uploads(connection: AsyncConnection, user_id: UUID, upload_ids: list[UUID]) -> dict[UUID, timedelta]:
    """Those of these uploads that are the user's own, with their ages."""
    age = sa.func.now() - uploads.c.created_at
    statement = sa.select(uploads.c.upload_id, age).where(
        uploads.c.user_id == user_id, uploads.c.upload_id.in_(upload_ids)
    )
    return {row.upload_id: row[1] for row in await connection.execute(statement)}


async def add_order(
    tx: Transaction, orders: Sequence[GenerationOrder], key: str, request_hash: bytes, most_open: int
) -> bool:
    """Register an idempotency key of a user, and the rows of the read model: one for each variant of the order.

    What ``tx`` has published goes with it. False, and nothing of all that is written, if the key was used before, or if
    more than ``most_open`` generations of the user would be open then. Call it under :func:`lock_allowance`: that keeps
    the count true until the commit.
    """
    rows = [
        {
            "generation_id": order.generation_id,
            "user_id": order.user_id,
            "model_id": order.model_id,
            "kind": order.kind,
            "parameters": order.parameters,
            "price_credits": order.price_credits,
            "lane": order.lane,
            "requested_at": order.requested_at,
            "expires_at": order.expires_at,
            "start_before_at": order.start_before_at,
        }
        for order in orders
    ]
    if len(rows) > 1:
        for number, row in enumerate(rows, start=1):
            row |= {"variant_of": orders[0].generation_id, "variant_number": number, "variant_count": len(rows)}
    values = {
        "generation_id": orders[0].generation_id,
        "user": orders[0].user_id,
        "key": key,
        "request_hash": request_hash,
        "most_open": most_open - len(orders),
        "orders": msgspec.json.encode(rows).decode(),
    }
    [is_added] = await tx.write(_ADD_ORDER, values)
    return bool(is_added)


async def find_unanswered(connection: AsyncConnection, generation_id: UUID) -> GenerationOrder | None:
    """The order as billing needs it to withdraw it; None if it is not ``requested`` any more."""
    row = (await connection.execute(_FIND_UNANSWERED, {"id": generation_id})).one_or_none()
    return None if row is None else _withdrawn(row)


async def lock_overdue(connection: AsyncConnection, batch: int) -> list[GenerationOrder]:
    """Orders that billing has not answered before their deadline, each at most once in a minute."""
    rows = (await connection.execute(_LOCK_OVERDUE, {"batch": batch})).all()
    if rows:
        ids = [row.generation_id for row in rows]
        await connection.execute(
            sa.update(generations).where(generations.c.generation_id.in_(ids)).values(updated_at=sa.func.now())
        )
    return [_withdrawn(row) for row in rows]


def _withdrawn(row: sa.Row[Any]) -> GenerationOrder:
    """An order that is not to be made: its uploads do not matter any more."""
    return GenerationOrder(**{name: getattr(row, name) for name in _ORDER}, uploads={})


async def get_status(connection: AsyncConnection, generation_id: UUID) -> GenerationStatus:
    """The status of a generation that is known to be there."""
    statement = sa.select(generations.c.status).where(generations.c.generation_id == generation_id)
    status: GenerationStatus = (await connection.execute(statement)).scalar_one()
    return status


async def delete_generation(connection: AsyncConnection, user_id: UUID, generation_id: UUID) -> datetime | None:
    """Take a user's generation out of every list; the time by the database's clock, or None if it has not ended."""
    statement = (
        sa.update(generations)
        .where(
            generations.c.generation_id == generation_id,
            generations.c.user_id == user_id,
            generations.c.status.in_(_terminal),
        )
        .values(deleted_at=sa.func.coalesce(generations.c.deleted_at, sa.func.now()))
        .returning(sa.func.now())
    )
    at: datetime | None = (await connection.execute(statement)).scalar_one_or_none()
    return at


async def count_running_cancels(
    connection: AsyncConnection, user_id: UUID, generation_id: UUID, window_seconds: int
) -> RunningCancels:
    """The user's cancels of running work in the window before now, and whether this generation is among them."""
    made, window = running_cancellations.c, timedelta(seconds=window_seconds)
    to_next = sa.func.extract("epoch", sa.func.min(made.cancelled_at) + window - sa.func.now())
    statement = sa.select(
        sa.func.count(),
        sa.func.coalesce(sa.func.bool_or(made.generation_id == generation_id), sa.false()),
        sa.func.coalesce(sa.func.ceil(to_next), window_seconds),
    ).where(made.user_id == user_id, made.cancelled_at > sa.func.now() - window)
    count, includes_this, seconds = (await connection.execute(statement)).one()
    return RunningCancels(count, includes_this=includes_this, seconds_to_next=max(1, int(seconds)))


async def add_running_cancel(connection: AsyncConnection, generation_id: UUID, user_id: UUID) -> None:
    """Count the cancel of a generation that a worker has; a second one of the same changes nothing."""
    fresh = insert(running_cancellations).values(generation_id=generation_id, user_id=user_id)
    await connection.execute(fresh.on_conflict_do_nothing(index_elements=["generation_id"]))


async def add_payment(connection: AsyncConnection, payment: NewPayment) -> None:
    """The read model's row of a new payment."""
    await connection.execute(sa.insert(payments).values(**asdict(payment), status="created", created_at=sa.func.now()))


async def recent_uploads(connection: AsyncConnection, user_id: UUID) -> RecentUploads:
    """What the user has begun to upload in the last 24 hours."""
    recent = uploads.c.created_at > sa.func.now() - timedelta(days=1)
    size = sa.func.coalesce(sa.func.sum(uploads.c.size_bytes), 0)
    statement = sa.select(sa.func.count(), size).where(uploads.c.user_id == user_id, recent)
    count, size_bytes = (await connection.execute(statement)).one()
    return RecentUploads(count, int(size_bytes))


async def has_had_credits(connection: AsyncConnection, user_id: UUID) -> bool:
    """Whether the user ever bought or was granted credits: the first of them opens the balance."""
    return (await connection.execute(_HAS_HAD_CREDITS, {"user": user_id})).one_or_none() is not None


async def add_signup(
    connection: AsyncConnection, user_id: UUID, grant_id: UUID, amount_credits: int, most_per_day: int
) -> bool:
    """Record that a new user is credited for signing up; whether that is new.

    It is not for a user who has credits or had some, and not for more than ``most_per_day`` users.
    """
    values = {"user": user_id, "grant_id": grant_id, "amount_credits": amount_credits, "most": most_per_day}
    return (await connection.execute(_ADD_SIGNUP, values)).one_or_none() is not None


async def find_signup(connection: AsyncConnection, user_id: UUID) -> Signup:
    """What is known of a user's sign-up."""
    return Signup(*(await connection.execute(_FIND_SIGNUP, {"user": user_id})).one())


async def add_upload(connection: AsyncConnection, upload: NewUpload) -> None:
    """Remember that a user may upload this."""
    await connection.execute(sa.insert(uploads).values(**asdict(upload)))
