"""What waits and what runs at each endpoint, as the estimates need it; and the measured times, which replicas share.

Every statement reads a bounded number of rows, whatever the length of the queue and the age of the tables.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, Text, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.values import Lane
from generation.domain.estimates import UNPLANNED_SECONDS, ActiveOrder
from generation.domain.fair_forecast import HORIZON, LaneState, WaitingOrder, WaitingUser
from generation.domain.measured_times import WINDOW, Measure, MeasureKey
from generation.tables import LIVE_ATTEMPT

_FEWEST_ORDERS: Final = 4
_MOST_ORDERS: Final = 200

_KEYS: Final = (
    bindparam("endpoints", type_=ARRAY(Text)),
    bindparam("lanes", type_=ARRAY(Text)),
    bindparam("user_ids", type_=ARRAY(Uuid)),
)
"""Queues, as ``_columns`` lists them."""

_ENDPOINTS: Final = text(f"""
    SELECT e.endpoint, e.max_active, e.virtual_time,
           CAST(coalesce(extract(epoch FROM e.held_until - clock_timestamp()), 0) AS double precision)
               AS paused_seconds,
           l.lane, l.stride, l.pass AS next_tag, l.virtual_time AS lane_virtual_time, clock_timestamp() AS now,
           (SELECT true FROM generation.attempts AS a WHERE a.{LIVE_ATTEMPT} ORDER BY a.endpoint LIMIT 1) IS NOT NULL
           OR EXISTS (
               SELECT FROM generation.user_queues AS q
               WHERE q.endpoint = l.endpoint AND q.lane = l.lane AND q.eligible) AS is_busy
    FROM generation.endpoints AS e JOIN generation.lanes AS l USING (endpoint)
""")  # noqa: S608 - the only insertion is the index's condition

_ACTIVE: Final = text(f"""
    SELECT a.endpoint, g.generation_id, g.user_id, g.lane, g.model_id, g.planned_seconds,
           CAST(extract(epoch FROM clock_timestamp() - a.prepared_at) AS double precision) AS prepared_seconds,
           CAST(extract(epoch FROM clock_timestamp() - a.started_at) AS double precision) AS running_seconds
    FROM generation.attempts AS a JOIN generation.video_generations AS g USING (generation_id)
    WHERE a.{LIVE_ATTEMPT} LIMIT :limit
""")  # noqa: S608 - the only insertion is the index's condition

# Users whose turn may come, and those who have as many jobs as they may: their orders wait for their own jobs.
_USERS: Final = text("""
    SELECT q.endpoint, q.lane, q.user_id, q.turn, q.room, q.ready_count
    FROM generation.lanes AS l
    CROSS JOIN LATERAL (
        SELECT endpoint, lane, user_id, turn, active_cap - active_count AS room, ready_count
        FROM generation.user_queues
        WHERE endpoint = l.endpoint AND lane = l.lane AND eligible
        ORDER BY turn, user_id LIMIT :limit
    ) AS q
    UNION
    SELECT q.endpoint, q.lane, q.user_id, q.turn, q.active_cap - q.active_count AS room, q.ready_count
    FROM unnest(:endpoints, :lanes, :user_ids) AS a(endpoint, lane, user_id)
    CROSS JOIN LATERAL (
        SELECT * FROM generation.user_queues AS u
        WHERE u.endpoint = a.endpoint AND u.lane = a.lane AND u.user_id = a.user_id
    ) AS q
    WHERE q.ready_count > 0
""").bindparams(*_KEYS)

_ORDERS: Final = text("""
    SELECT u.endpoint, u.lane, u.user_id, g.generation_id, g.model_id, g.planned_seconds
    FROM unnest(:endpoints, :lanes, :user_ids) AS u(endpoint, lane, user_id)
    CROSS JOIN LATERAL (
        SELECT generation_id, model_id, planned_seconds FROM generation.video_generations
        WHERE endpoint = u.endpoint AND lane = u.lane AND user_id = u.user_id AND ready
        ORDER BY enqueued_at, generation_id LIMIT :limit
    ) AS g
""").bindparams(*_KEYS)

_ADD_MEASURED: Final = text(f"""
    INSERT INTO generation.measured_times AS m (measure, model_id, lane, recent)
    SELECT measure, model_id, lane, recent
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(measure text, model_id text, lane text, recent double precision[])
    ORDER BY measure, model_id, lane
    ON CONFLICT (measure, model_id, lane) DO UPDATE SET recent = (m.recent || excluded.recent)[
        greatest(1, cardinality(m.recent) + cardinality(excluded.recent) - {WINDOW - 1}):]
""")  # noqa: S608 - the only insertion is a number

_MEASURED: Final = text("SELECT measure, model_id, lane, recent FROM generation.measured_times")


@dataclass(frozen=True, slots=True)
class QueueState:
    """One endpoint at one moment of the database's clock."""

    endpoint: str
    at: datetime
    max_active: int
    virtual_time: int
    paused_seconds: float
    lanes: Sequence[LaneState]
    users: Sequence[WaitingUser]
    active: Sequence[ActiveOrder]


class _Measured(msgspec.Struct, frozen=True):
    measure: Measure
    model_id: str
    lane: Lane
    recent: Sequence[float]


_QueueKey = tuple[str, Lane, UUID]


async def get_queue_states(connection: AsyncConnection) -> list[QueueState]:
    """What waits and runs at every endpoint."""
    rows = (await connection.execute(_ENDPOINTS)).all()
    lanes: defaultdict[str, list[LaneState]] = defaultdict(list)
    for row in rows:
        lanes[row.endpoint].append(LaneState(row.lane, row.stride, row.next_tag, row.lane_virtual_time))
    active: defaultdict[str, list[ActiveOrder]] = defaultdict(list)
    users: defaultdict[str, list[WaitingUser]] = defaultdict(list)
    if any(row.is_busy for row in rows):
        active = await _get_active(connection)
        users = await _get_users(connection, active)
    return [
        QueueState(
            endpoint=row.endpoint,
            at=row.now,
            max_active=row.max_active,
            virtual_time=row.virtual_time,
            paused_seconds=row.paused_seconds,
            lanes=lanes[row.endpoint],
            users=users[row.endpoint],
            active=active[row.endpoint],
        )
        for row in {row.endpoint: row for row in rows}.values()
    ]


async def add_measured(connection: AsyncConnection, values: Mapping[MeasureKey, Sequence[float]]) -> None:
    """Append to the windows, which keep the newest ``WINDOW`` values."""
    rows = [_Measured(key.measure, key.model_id, key.lane, list(recent)) for key, recent in values.items()]
    await connection.execute(_ADD_MEASURED, {"rows": msgspec.json.encode(rows).decode()})


async def get_measured(connection: AsyncConnection) -> dict[MeasureKey, Sequence[float]]:
    """All windows."""
    rows = await connection.execute(_MEASURED)
    return {MeasureKey(row.measure, row.model_id, row.lane): row.recent for row in rows}


async def _get_active(connection: AsyncConnection) -> defaultdict[str, list[ActiveOrder]]:
    active: defaultdict[str, list[ActiveOrder]] = defaultdict(list)
    for row in await connection.execute(_ACTIVE, {"limit": 5 * HORIZON}):
        active[row.endpoint].append(ActiveOrder(*row[1:]))
    return active


async def _get_users(
    connection: AsyncConnection, active: Mapping[str, Iterable[ActiveOrder]]
) -> defaultdict[str, list[WaitingUser]]:
    busy: set[_QueueKey] = {(endpoint, one.lane, one.user_id) for endpoint, jobs in active.items() for one in jobs}
    found = await connection.execute(_USERS, {"limit": HORIZON, **_columns(busy)})
    queues = {(row.endpoint, row.lane, row.user_id): row for row in found}
    orders: defaultdict[_QueueKey, list[WaitingOrder]] = defaultdict(list)
    if queues:
        per_user = min(max(_FEWEST_ORDERS, 4 * HORIZON // len(queues)), _MOST_ORDERS)
        for row in await connection.execute(_ORDERS, {"limit": per_user, **_columns(queues)}):
            planned = UNPLANNED_SECONDS if row.planned_seconds is None else row.planned_seconds
            orders[row.endpoint, row.lane, row.user_id].append(WaitingOrder(row.generation_id, row.model_id, planned))
    users: defaultdict[str, list[WaitingUser]] = defaultdict(list)
    for key, row in queues.items():
        users[row.endpoint].append(WaitingUser(row.user_id, row.lane, row.turn, row.room, row.ready_count, orders[key]))
    return users


def _columns(keys: Iterable[tuple[str, str, UUID]]) -> dict[str, list[str] | list[UUID]]:
    listed = sorted(keys)
    return {
        "endpoints": [endpoint for endpoint, _, _ in listed],
        "lanes": [lane for _, lane, _ in listed],
        "user_ids": [user_id for _, _, user_id in listed],
    }
