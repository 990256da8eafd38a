"""Orders and their attempts: load under lock, change in the domain, save set-based with the users' counters."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, Row, Uuid, any_, bindparam, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from generation.domain.order import Attempt, Occupancy, Order
from generation.tables import attempts as attempts_table
from generation.tables import video_generations as orders_table

_ORDER_FIELDS: Final = tuple(f.name for f in fields(Order) if f.name not in ("attempts", "events"))
_ATTEMPT_FIELDS: Final = tuple(f.name for f in fields(Attempt))
_IDS: Final = bindparam("ids", type_=ARRAY(Uuid))

_LOCK_ORDERS: Final = (
    select(*(orders_table.c[name] for name in _ORDER_FIELDS), func.clock_timestamp())
    .where(orders_table.c.generation_id == any_(_IDS))
    .order_by(orders_table.c.generation_id)
    .with_for_update()
)
_GET_ATTEMPTS: Final = (
    select(attempts_table.c.generation_id, *(attempts_table.c[name] for name in _ATTEMPT_FIELDS))
    .where(attempts_table.c.generation_id == any_(_IDS))
    .order_by(attempts_table.c.generation_id, attempts_table.c.attempt_number)
)

_ORDER_COLUMNS: Final = {
    "status": "text",
    "version": "integer",
    "ready": "boolean",
    "inputs_ready": "boolean",
    "failures": "integer",
    "next_attempt_at": "timestamptz",
    "deadline_at": "timestamptz",
    "handed_over_number": "integer",
    "sought_version": "integer",
    "sought_code": "text",
    "sought_detail": "text",
    "sought_retry": "boolean",
    "failure_code": "text",
    "failure_detail": "text",
    "asset_id": "uuid",
    "late": "boolean",
    "finished_at": "timestamptz",
    "input_object_keys": "jsonb",
}
_ATTEMPT_COLUMNS: Final = {
    "status": "text",
    "fence_token": "bigint",
    "check_at": "timestamptz",
    "provider_job_id": "text",
    "submitted_at": "timestamptz",
    "started_at": "timestamptz",
    "ended_at": "timestamptz",
    "cancel_due_at": "timestamptz",
    "cancel_tries": "integer",
    "failure_code": "text",
    "failure_detail": "text",
    "size_bytes": "bigint",
    "sha256": "text",
    "content_type": "text",
    "execution_ms": "bigint",
    "report": "jsonb",
}


def _update(table: str, key: str, columns: dict[str, str]) -> str:
    assignments = ", ".join(f"{name} = r.{name}" for name in columns)
    record = ", ".join([f"{key} uuid", *(f"{name} {kind}" for name, kind in columns.items())])
    return (
        f"UPDATE generation.{table} AS t SET {assignments}"  # noqa: S608 - the names are the constants above
        f" FROM jsonb_to_recordset(CAST(:{table} AS jsonb)) AS r({record}) WHERE t.{key} = r.{key}"
    )


# The orders are locked already, and nobody waits for an order while holding an attempt or a counter: so it does not
# matter which of the three is written first, and one round trip does for all.
_SAVE: Final = text(f"""
    WITH orders AS (
        {_update("video_generations", "generation_id", _ORDER_COLUMNS)}
    ), attempts AS (
        {_update("attempts", "attempt_id", _ATTEMPT_COLUMNS)}
    ), locked AS MATERIALIZED (
        SELECT endpoint, lane, user_id, c.ready, c.active
        FROM jsonb_to_recordset(CAST(:counters AS jsonb))
            AS c(endpoint text, lane text, user_id uuid, ready integer, active integer)
        JOIN generation.user_queues AS q USING (endpoint, lane, user_id)
        ORDER BY endpoint, lane, user_id
        FOR UPDATE OF q
    )
    UPDATE generation.user_queues AS q
    SET ready_count = q.ready_count + l.ready, active_count = q.active_count + l.active
    FROM locked AS l
    WHERE q.endpoint = l.endpoint AND q.lane = l.lane AND q.user_id = l.user_id
""")  # noqa: S608 - as above

_ADD_ORDERS: Final = text("""
    INSERT INTO generation.video_generations AS g (
        generation_id, user_id, model_id, kind, endpoint, lane, price_credits, parameters, uploads, status, version,
        ready, inputs_ready, attempt_count, failures, requested_at, enqueued_at, next_attempt_at, expires_at,
        deadline_at, finished_at, failure_code, failure_detail, expected_width_pixels, expected_height_pixels,
        expected_duration_ms, max_size_bytes, output_extension, execution_timeout_seconds, traceparent)
    SELECT
        generation_id, user_id, model_id, kind, endpoint, lane, price_credits, parameters, uploads, 'queued', 1,
        inputs_ready, inputs_ready, 0, 0, requested_at, clock_timestamp(), clock_timestamp(), expires_at,
        expires_at, NULL, NULL, NULL, expected_width_pixels, expected_height_pixels,
        expected_duration_ms, max_size_bytes, output_extension, execution_timeout_seconds, traceparent
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        generation_id uuid, user_id uuid, model_id text, kind text, endpoint text, lane text, price_credits bigint,
        parameters jsonb, uploads jsonb, inputs_ready boolean, requested_at timestamptz, expires_at timestamptz,
        expected_width_pixels integer, expected_height_pixels integer, expected_duration_ms integer,
        max_size_bytes bigint, output_extension text, execution_timeout_seconds integer, traceparent text)
    ORDER BY generation_id
    ON CONFLICT (generation_id) DO NOTHING
    RETURNING generation_id
""")

_OPEN_USER_QUEUES: Final = text("""
    INSERT INTO generation.user_queues AS q (endpoint, lane, user_id, ready_count, active_count, active_cap)
    SELECT endpoint, lane, user_id, ready, 0, active_cap
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(endpoint text, lane text, user_id uuid, ready integer, active_cap integer)
    ORDER BY endpoint, lane, user_id
    ON CONFLICT (endpoint, lane, user_id) DO UPDATE
    SET ready_count = q.ready_count + excluded.ready_count, active_cap = excluded.active_cap
""")


class NewOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A funded order with what the catalogue expects of its output, as it enters the table."""

    generation_id: UUID
    user_id: UUID
    model_id: str
    kind: str
    endpoint: str
    lane: str
    price_credits: int
    parameters: dict[str, Any]
    uploads: dict[str, UUID]
    inputs_ready: bool
    requested_at: datetime
    expires_at: datetime
    expected_width_pixels: int
    expected_height_pixels: int
    expected_duration_ms: int | None
    max_size_bytes: int
    output_extension: str
    execution_timeout_seconds: int
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class LockedOrders:
    """Orders under lock, what they were when they were loaded, and the database's time of that moment."""

    orders: dict[UUID, Order]
    now: datetime
    _orders_before: dict[UUID, dict[str, Any]]
    _attempts_before: dict[UUID, dict[str, Any]]
    _occupancy_before: dict[UUID, Occupancy]

    def changed_orders(self) -> list[dict[str, Any]]:
        """The rows that differ from what was loaded."""
        return _changed(self._orders_before, {key: _row(order, _ORDER_COLUMNS) for key, order in self.orders.items()})

    def changed_attempts(self) -> list[dict[str, Any]]:
        """The attempts' rows that differ from what was loaded."""
        return _changed(
            self._attempts_before,
            {a.attempt_id: _row(a, _ATTEMPT_COLUMNS) for order in self.orders.values() for a in order.attempts},
        )

    def changed_counters(self) -> list[dict[str, Any]]:
        """Per user queue: how many orders became ready or ceased to be, and the same for live attempts."""
        ready: Counter[tuple[str, str, UUID]] = Counter()
        active: Counter[tuple[str, str, UUID]] = Counter()
        for generation_id, order in self.orders.items():
            before, after = self._occupancy_before[generation_id], order.occupancy
            key = (order.endpoint, order.lane, order.user_id)
            ready[key] += after.ready - before.ready
            active[key] += after.active - before.active
        return [
            {"endpoint": key[0], "lane": key[1], "user_id": key[2], "ready": ready[key], "active": active[key]}
            for key in ready
            if ready[key] or active[key]
        ]


class Written(NamedTuple):
    """The rows that were saved; those of orders and attempts have their id under ``key``."""

    orders: list[dict[str, Any]]
    attempts: list[dict[str, Any]]
    counters: list[dict[str, Any]]


async def lock_orders(connection: AsyncConnection, generation_ids: Iterable[UUID]) -> LockedOrders:
    """Lock and load the orders of these ids that exist, in id order, each with its attempts."""
    ids = sorted(set(generation_ids))
    rows = (await connection.execute(_LOCK_ORDERS, {"ids": ids})).all() if ids else []
    attempted = [row.generation_id for row in rows if row.attempt_count]
    attempts: defaultdict[UUID, list[Attempt]] = defaultdict(list)
    if attempted:
        # A statement of its own, after the lock: its snapshot must see the attempts of whoever held the lock before.
        for row in (await connection.execute(_GET_ATTEMPTS, {"ids": attempted})).all():
            attempts[row.generation_id].append(_attempt(row))
    orders = {row.generation_id: _order(row, attempts[row.generation_id]) for row in rows}
    return LockedOrders(
        orders,
        rows[-1][-1] if rows else datetime.min,  # noqa: DTZ901 - never read: there is nothing to apply it to
        {key: _row(order, _ORDER_COLUMNS) for key, order in orders.items()},
        {a.attempt_id: _row(a, _ATTEMPT_COLUMNS) for order in orders.values() for a in order.attempts},
        {key: order.occupancy for key, order in orders.items()},
    )


async def save_orders(connection: AsyncConnection, locked: LockedOrders) -> Written:
    """Write whatever changed: orders, attempts, and the counters of their users' queues."""
    written = Written(locked.changed_orders(), locked.changed_attempts(), locked.changed_counters())
    if any(written):
        rows = {
            "video_generations": _json(_keyed("generation_id", written.orders)),
            "attempts": _json(_keyed("attempt_id", written.attempts)),
            "counters": _json(written.counters),
        }
        await connection.execute(_SAVE, rows)
    return written


async def add_orders(connection: AsyncConnection, new: Sequence[NewOrder], active_caps: dict[str, int]) -> set[UUID]:
    """Insert orders in state queued and count them in their users' queues. Returns the ids that were not there yet."""
    inserted = set((await connection.execute(_ADD_ORDERS, {"rows": _json(new)})).scalars())
    ready: Counter[tuple[str, str, UUID]] = Counter()
    for order in new:
        if order.generation_id in inserted:
            ready[order.endpoint, order.lane, order.user_id] += int(order.inputs_ready)
    if ready:
        rows = [
            {"endpoint": key[0], "lane": key[1], "user_id": key[2], "ready": n, "active_cap": active_caps[key[1]]}
            for key, n in ready.items()
        ]
        await connection.execute(_OPEN_USER_QUEUES, {"rows": _json(rows)})
    return inserted


def _order(row: Row[*tuple[Any, ...]], attempts: list[Attempt]) -> Order:
    return Order(**{name: getattr(row, name) for name in _ORDER_FIELDS}, attempts=attempts)


def _attempt(row: Row[*tuple[Any, ...]]) -> Attempt:
    return Attempt(**{name: getattr(row, name) for name in _ATTEMPT_FIELDS})


def _row(source: Order | Attempt, columns: dict[str, str]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in columns}


def _changed(before: dict[UUID, dict[str, Any]], after: dict[UUID, dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"key": key} for key, row in after.items() if row != before.get(key)]


def _keyed(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row["key"], **{k: v for k, v in row.items() if k != "key" and v is not None}} for row in rows]


def _json(rows: Any) -> str:
    return msgspec.json.encode(rows).decode()
