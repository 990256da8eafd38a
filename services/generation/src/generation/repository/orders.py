"""Orders and their attempts: load under lock, change in the domain, save set-based with the users' counters."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import Table
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.generation import FailureCode
from contracts.values import Kind, Lane
from generation.domain.order import Attempt, Lookup, Occupancy, Order
from generation.domain.statuses import OrderStatus
from generation.repository.callbacks import ADD_PROCESSED, BodyNotAdded, ProcessedBody, body_values
from generation.repository.fair_queue import has_work_sql
from generation.tables import attempts as attempts_table
from generation.tables import video_generations as orders_table
from messaging.outbox import Writes
from messaging.transaction import Transaction
from service_runtime.statements import Record, Statement


class OrderState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may change of an order. The encoded names are the columns."""

    generation_id: UUID
    status: OrderStatus
    version: int
    ready: bool
    inputs_ready: bool
    failures: int
    next_attempt_at: datetime
    deadline_at: datetime
    verifying_number: int | None = msgspec.field(default=None, name="handed_over_number")
    lookup_version: int | None = msgspec.field(default=None, name="sought_version")
    lookup_code: FailureCode | None = msgspec.field(default=None, name="sought_code")
    lookup_detail: str | None = msgspec.field(default=None, name="sought_detail")
    lookup_retry: bool | None = msgspec.field(default=None, name="sought_retry")
    failure_code: FailureCode | None = None
    failure_detail: str | None = None
    asset_id: UUID | None = None
    late: bool
    finished_at: datetime | None = None
    input_object_keys: dict[str, str] | None = None


class QueueChange(msgspec.Struct, frozen=True):
    """How many orders of a user's queue became ready or ceased to be, and the same for live attempts."""

    endpoint: str
    lane: Lane
    user_id: UUID
    ready: int
    active: int


class NewOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A funded order with what the catalogue expects of its output, as it enters the table."""

    generation_id: UUID
    user_id: UUID
    model_id: str
    kind: Kind
    endpoint: str
    lane: Lane
    price_credits: int
    parameters: dict[str, Any]
    uploads: dict[str, UUID]
    inputs_ready: bool
    requested_at: datetime
    expires_at: datetime
    start_before_at: datetime | None = None
    expected_width_pixels: int
    expected_height_pixels: int
    expected_duration_ms: int | None
    max_size_bytes: int
    output_extension: str
    execution_timeout_seconds: int
    traceparent: str | None
    tier: str | None = None
    planned_gpu: str | None = None
    planned_cost_micro_usd: int | None = None
    planned_seconds: float | None = None


_ATTEMPT_COLUMNS: Final = tuple(field.name for field in fields(Attempt))
_ATTEMPT_CONSTANTS: Final = ("attempt_number", "endpoint_id", "prepared_at", "sending_at")
"""Never written here. ``sending_at`` is set without the order's lock (``repository.attempts``)."""
_LOOKUP_COLUMNS: Final = ("sought_version", "sought_code", "sought_detail", "sought_retry")
_NAMED_OTHERWISE: Final = ("attempts", "events", "lookup", "verifying_number")
_ORDER_COLUMNS: Final = tuple(field.name for field in fields(Order) if field.name not in _NAMED_OTHERWISE)
BRIEF_LOCK_TIMEOUT_MS: Final = 1000
"""How long who passes locked orders over waits for anything else that is locked: the counters of a user."""
_DIALECT: Final = dialect()  # type: ignore[no-untyped-call]
_LOCKED: Final = (*_ORDER_COLUMNS, "handed_over_number", *_LOOKUP_COLUMNS)


def _lock(which: str, waiting: str = "", also: str = "") -> Statement:
    return Statement(f"""
        SELECT {", ".join(_LOCKED)},{also} clock_timestamp()
        FROM generation.video_generations WHERE generation_id = ANY ({which})
        ORDER BY generation_id FOR UPDATE {waiting}
    """)  # noqa: S608 - the insertions are constants


_LOCK_ORDERS: Final = _lock("CAST(:ids AS uuid[])")
_LOCK_FREE_ORDERS: Final = _lock(
    "ARRAY(SELECT generation_id FROM generation.attempts WHERE attempt_id = ANY (CAST(:attempt_ids AS uuid[])))",
    "SKIP LOCKED",
    f" set_config('lock_timeout', '{BRIEF_LOCK_TIMEOUT_MS}', true),",
)
_GET_ATTEMPTS: Final = Statement(f"""
    SELECT generation_id, {", ".join(_ATTEMPT_COLUMNS)}
    FROM generation.attempts WHERE generation_id = ANY (CAST(:ids AS uuid[]))
    ORDER BY generation_id, attempt_number
""")  # noqa: S608 - names of columns


class _Rows:
    """Rows that a statement gets from us, as the relation ``r`` of columns with these types.

    Mostly it is one row, and then each value is a parameter. Several go as a JSON array, for which the server takes 50
    to 100 microseconds more.
    """

    def __init__(self, name: str, types: Mapping[str, str], fields_: Sequence[str] = ()) -> None:
        self._name = name
        self._types = types
        self._fields = fields_ or tuple(types)

    def relation(self, *, one: bool) -> str:
        """What stands in the FROM."""
        if one:
            return f"(SELECT {', '.join(self._parameters())}) AS r"
        record = ", ".join(f"{column} {sql_type}" for column, sql_type in self._types.items())
        return f"jsonb_to_recordset(CAST(:{self._name} AS jsonb)) AS r({record})"

    def values(self, rows: Sequence[msgspec.Struct] | Sequence[Attempt]) -> dict[str, object]:
        """The parameters of :meth:`relation`, and ``<name>_keys`` where there are several rows."""
        if len(rows) != 1:
            keys = [getattr(row, self._fields[0]) for row in rows]
            return {self._name: _json(rows), f"{self._name}_keys": keys}
        values: dict[str, object] = {}
        for (column, sql_type), field in zip(self._types.items(), self._fields, strict=True):
            value = getattr(rows[0], field)
            is_json = sql_type == "JSONB" and value is not None
            values[f"{self._name}_{column}"] = msgspec.json.encode(value).decode() if is_json else value
        return values

    def update(self, table: Table, *, one: bool) -> str:
        """An UPDATE of these columns of ``table``. The first one is the key.

        A JSON array counts as a hundred rows for the planner. It would rather read a table of some thousand rows whole,
        and keep that plan while the table grows. So the keys come as an array, too: that is a walk along the index.
        """
        key, *others = self._types
        assignments = ", ".join(f"{column} = r.{column}" for column in others)
        keys = "" if one else f"t.{key} = ANY (CAST(:{self._name}_keys AS {self._types[key]}[])) AND "
        update = f"UPDATE {table.fullname} AS t SET {assignments}"  # noqa: S608 - names of tables and columns
        return f"{update} FROM {self.relation(one=one)} WHERE {keys}t.{key} = r.{key}"

    def _parameters(self) -> Iterator[str]:
        for column, sql_type in self._types.items():
            yield f"CAST(:{self._name}_{column} AS {sql_type}) AS {column}"


def _types(table: Table, columns: Iterable[str]) -> dict[str, str]:
    return {column: table.c[column].type.compile(dialect=_DIALECT) for column in columns}


_ORDERS: Final = _Rows("order", _types(orders_table, OrderState.__struct_encode_fields__), OrderState.__struct_fields__)
_ATTEMPTS: Final = _Rows(
    "attempt", _types(attempts_table, (name for name in _ATTEMPT_COLUMNS if name not in _ATTEMPT_CONSTANTS))
)
_QUEUES: Final = _Rows(
    "queue", {"endpoint": "text", "lane": "text", "user_id": "uuid", "ready": "integer", "active": "integer"}
)
_NEW_ORDERS: Final = _Rows("new", _types(orders_table, NewOrder.__struct_fields__))


_COUNT: Final = f"""
    locked AS MATERIALIZED (
        SELECT endpoint, lane, user_id, r.ready, r.active
        FROM {{queues}} JOIN generation.user_queues AS q USING (endpoint, lane, user_id)
        ORDER BY endpoint, lane, user_id
        FOR UPDATE OF q
    ), queues AS (
        UPDATE generation.user_queues AS q
        SET ready_count = q.ready_count + l.ready, active_count = q.active_count + l.active
        FROM locked AS l
        WHERE q.endpoint = l.endpoint AND q.lane = l.lane AND q.user_id = l.user_id
        RETURNING q.endpoint, (l.ready > 0 OR l.active < 0) AND (q.eligible OR {has_work_sql("l.endpoint")})
            AS claimable
    )"""  # noqa: S608 - the insertions are constants


# The orders are locked already, and no transaction waits for an order while it has locked an attempt or a counter. So
# all may be written in any order, in one round trip.
@lru_cache(maxsize=64)
def _save(orders: int, attempts: int, queues: int, *, bodies: bool) -> Writes:
    """What writes none, one (1) or several (2) of each."""
    parts, results = [], ["CAST('{}' AS text[])"]
    if orders:
        parts.append(f"orders AS ({_ORDERS.update(orders_table, one=orders == 1)})")
    if attempts:
        parts.append(f"attempts AS ({_ATTEMPTS.update(attempts_table, one=attempts == 1)})")
    if queues:
        parts.append(_COUNT.format(queues=_QUEUES.relation(one=queues == 1)))
        results = ["ARRAY(SELECT endpoint FROM queues WHERE claimable)"]
    if bodies:
        parts.append(ADD_PROCESSED.parts)
        results.append(ADD_PROCESSED.result)
    return Writes(", ".join(parts), ", ".join(results))


# An order whose cancel came before it is not ready: the timers apply the cancel. One that commits meanwhile is not
# seen, and is applied a moment later. The counters of the users are locked last, as everywhere.
@lru_cache(maxsize=2)
def _add(*, one: bool) -> Writes:
    return Writes(
        f"""
    new_orders AS (
        INSERT INTO generation.video_generations AS g (
            generation_id, user_id, model_id, kind, endpoint, lane, price_credits, parameters, uploads, status, version,
            ready, inputs_ready, attempt_count, failures, requested_at, enqueued_at, next_attempt_at, expires_at,
            deadline_at, finished_at, failure_code, failure_detail, expected_width_pixels, expected_height_pixels,
            expected_duration_ms, max_size_bytes, output_extension, execution_timeout_seconds, traceparent, tier,
            planned_gpu, planned_cost_micro_usd, start_before_at, planned_seconds)
        SELECT
            generation_id, user_id, model_id, kind, endpoint, lane, price_credits, parameters, uploads, 'queued', 1,
            inputs_ready AND NOT EXISTS (
                SELECT FROM generation.cancellations AS c WHERE c.generation_id = r.generation_id),
            inputs_ready, 0, 0, requested_at, clock_timestamp(), clock_timestamp(), expires_at,
            least(expires_at, start_before_at), NULL, NULL, NULL, expected_width_pixels, expected_height_pixels,
            expected_duration_ms, max_size_bytes, output_extension, execution_timeout_seconds, traceparent, tier,
            planned_gpu, planned_cost_micro_usd, start_before_at, planned_seconds
        FROM {_NEW_ORDERS.relation(one=one)}
        ORDER BY generation_id
        ON CONFLICT (generation_id) DO NOTHING
        RETURNING generation_id, endpoint, lane, user_id, ready
    ), queues AS (
        INSERT INTO generation.user_queues AS q (endpoint, lane, user_id, ready_count, active_count, active_cap)
        SELECT endpoint, lane, user_id, count(*) FILTER (WHERE ready), 0,
               CAST(CAST(:active_caps AS jsonb) ->> lane AS integer)
        FROM new_orders GROUP BY endpoint, lane, user_id
        ORDER BY endpoint, lane, user_id
        ON CONFLICT (endpoint, lane, user_id) DO UPDATE
        SET ready_count = q.ready_count + excluded.ready_count, active_cap = excluded.active_cap
    )""",  # noqa: S608 - the insertions are constants
        """ARRAY(SELECT generation_id FROM new_orders), ARRAY(SELECT DISTINCT endpoint FROM new_orders),
        EXISTS (SELECT FROM new_orders JOIN generation.cancellations USING (generation_id))""",
        when="message.correlation_id IN (SELECT generation_id FROM new_orders)",
    )


class _Before(NamedTuple):
    """What orders and attempts were when they were loaded, by id."""

    orders: dict[UUID, OrderState]
    attempts: dict[UUID, Attempt]
    occupancy: dict[UUID, Occupancy]


class Changes(NamedTuple):
    """What differs from what was loaded."""

    orders: list[OrderState]
    attempts: list[Attempt]
    queues: list[QueueChange]


class Written(NamedTuple):
    """What was saved, and the endpoints at which there are orders to claim since."""

    attempts: list[Attempt]
    claimable: set[str]


class Added(NamedTuple):
    """The orders that were not there yet, the endpoints of those, and whether a cancel came before one of them."""

    generation_ids: list[UUID]
    endpoints: list[str]
    early_cancels: bool


class Spent(NamedTuple):
    """What became known of an attempt's time on a worker and of its cost, beyond what was known before."""

    order: Order
    attempt: Attempt
    milliseconds: int
    micro_usd: int

    @property
    def thrown_away(self) -> bool:
        """Whether the user's cancel stopped it: only that leads to these states of an order."""
        return self.order.status in ("cancelling", "cancelled") and self.attempt.status == "cancelled"


@dataclass(frozen=True, slots=True)
class LockedOrders:
    """Orders under lock, what they were when they were loaded, and the database's time of that moment."""

    orders: dict[UUID, Order]
    now: datetime
    _before: _Before

    def changes(self) -> Changes:
        """What differs from what was loaded."""
        orders = [_order_state(order) for order in self.orders.values()]
        attempts = [attempt for order in self.orders.values() for attempt in order.attempts]
        return Changes(
            [state for state in orders if state != self._before.orders[state.generation_id]],
            [attempt for attempt in attempts if attempt != self._before.attempts.get(attempt.attempt_id)],
            self._queue_changes(),
        )

    def ended_attempts(self) -> Iterator[tuple[Order, Attempt]]:
        """The attempts that were live when they were loaded, and no longer are."""
        for order in self.orders.values():
            for attempt in order.attempts:
                before = self._before.attempts.get(attempt.attempt_id)
                if not attempt.live and (before is None or before.live):
                    yield order, attempt

    def spent(self) -> Iterator[Spent]:
        """What each attempt that has ended was found to have taken. Less than what was assumed before counts as 0."""
        for order in self.orders.values():
            for attempt in order.attempts:
                before = self._before.attempts.get(attempt.attempt_id)
                milliseconds, micro_usd = attempt.execution_ms or 0, attempt.cost_micro_usd or 0
                if before is not None and not before.live:
                    milliseconds -= before.execution_ms or 0
                    micro_usd -= before.cost_micro_usd or 0
                if not attempt.live and (milliseconds > 0 or micro_usd > 0):
                    yield Spent(order, attempt, max(0, milliseconds), max(0, micro_usd))

    def _queue_changes(self) -> list[QueueChange]:
        ready: Counter[tuple[str, Lane, UUID]] = Counter()
        active: Counter[tuple[str, Lane, UUID]] = Counter()
        for generation_id, order in self.orders.items():
            before, after = self._before.occupancy[generation_id], order.occupancy
            key = (order.endpoint, order.lane, order.user_id)
            ready[key] += after.ready - before.ready
            active[key] += after.active - before.active
        return [QueueChange(*key, ready[key], active[key]) for key in ready if ready[key] or active[key]]


async def lock_orders(connection: AsyncConnection, generation_ids: Iterable[UUID]) -> LockedOrders:
    """Lock and load the orders of these ids that exist, sorted by id, each with its attempts."""
    ids = sorted(set(generation_ids))
    return await _load(connection, await _LOCK_ORDERS.fetch(connection, {"ids": ids}) if ids else [])


async def lock_free_orders(connection: AsyncConnection, attempt_ids: Sequence[UUID]) -> LockedOrders:
    """The same for the orders of these attempts, without those that are locked at the moment.

    The transaction waits for no other lock for longer than ``BRIEF_LOCK_TIMEOUT_MS``.
    """
    return await _load(connection, await _LOCK_FREE_ORDERS.fetch(connection, {"attempt_ids": attempt_ids}))


async def _load(connection: AsyncConnection, rows: Sequence[Record]) -> LockedOrders:
    orders = {row["generation_id"]: _order(row) for row in rows}
    attempts: dict[UUID, Attempt] = {}
    attempted = [key for key, order in orders.items() if order.attempt_count]
    if attempted:
        # A statement of its own, after the lock: its snapshot must see the attempts of the lock's previous owner.
        for generation_id, *columns in await _GET_ATTEMPTS.fetch(connection, {"ids": attempted}):
            values = dict(zip(_ATTEMPT_COLUMNS, columns, strict=True))
            attempt = Attempt(**values)
            orders[generation_id].attempts.append(attempt)
            # Made again, because to copy one takes five times as long.
            attempts[attempt.attempt_id] = Attempt(**values)
    return LockedOrders(
        orders,
        rows[-1][-1] if rows else datetime.min,  # noqa: DTZ901 - never read: there is nothing to apply it to
        _Before(
            {key: _order_state(order) for key, order in orders.items()},
            attempts,
            {key: order.occupancy for key, order in orders.items()},
        ),
    )


async def save_orders(tx: Transaction, locked: LockedOrders, processed: Sequence[ProcessedBody] = ()) -> Written:
    """Write whatever changed: orders, attempts, and the counters of their users' queues; and what is published so far.

    ``processed`` are bodies that were acted on as they came. Raises BodyNotAdded if one of them cannot be added.
    """
    changes = locked.changes()
    if not any(changes) and not processed:
        return Written([], set())
    values: dict[str, object] = {}
    for source, rows in ((_ORDERS, changes.orders), (_ATTEMPTS, changes.attempts), (_QUEUES, changes.queues)):
        if rows:
            values |= source.values(rows)
    if processed:
        values |= body_values(processed)
    writes = _save(*(min(len(rows), 2) for rows in changes), bodies=bool(processed))
    claimable, *added = await tx.write(writes, values)
    if processed and added[0] < len(processed):
        raise BodyNotAdded
    return Written(changes.attempts, set(claimable))


def adding_orders(new: Sequence[NewOrder], active_caps: Mapping[Lane, int]) -> tuple[Writes, dict[str, object]]:
    """What inserts orders in state queued and counts them in their users' queues, and announces those that are new.

    The result is an :class:`Added`.
    """
    values = _NEW_ORDERS.values(new) | {"active_caps": msgspec.json.encode(active_caps).decode()}
    return _add(one=len(new) == 1), values


def _order(row: Record) -> Order:
    columns = dict(zip(_ORDER_COLUMNS, row, strict=False))
    lookup = None if row["sought_version"] is None else Lookup(*(row[name] for name in _LOOKUP_COLUMNS))
    return Order(**columns, verifying_number=row["handed_over_number"], lookup=lookup)


def _order_state(order: Order) -> OrderState:
    lookup = order.lookup
    return OrderState(
        generation_id=order.generation_id,
        status=order.status,
        version=order.version,
        ready=order.ready,
        inputs_ready=order.inputs_ready,
        failures=order.failures,
        next_attempt_at=order.next_attempt_at,
        deadline_at=order.deadline_at,
        verifying_number=order.verifying_number,
        lookup_version=None if lookup is None else lookup.version,
        lookup_code=None if lookup is None else lookup.code,
        lookup_detail=None if lookup is None else lookup.detail,
        lookup_retry=None if lookup is None else lookup.retry,
        failure_code=order.failure_code,
        failure_detail=order.failure_detail,
        asset_id=order.asset_id,
        late=order.late,
        finished_at=order.finished_at,
        input_object_keys=order.input_object_keys,
    )


def _json(rows: Sequence[msgspec.Struct] | Sequence[Attempt]) -> str:
    return msgspec.json.encode(rows).decode()
