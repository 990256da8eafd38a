"""What the gauges show: queue depth and age, open orders, live attempts, paused endpoints."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from generation.tables import LIVE_ATTEMPT, OPEN_ORDER

MOST_COUNTED: Final = 1_000_000
"""Of open orders, and of live attempts."""

_QUEUES: Final = text("""
    SELECT endpoint, lane, count(*) AS orders,
           CAST(extract(epoch FROM clock_timestamp() - min(enqueued_at)) AS double precision) AS oldest_seconds
    FROM generation.video_generations WHERE ready GROUP BY endpoint, lane
""")
# Both walk along the index of what is open, and then by key, whatever the statistics are: those of an empty table make
# the reading of all orders look cheaper. LIMIT 1 keeps the inner query from becoming a join.
_OPEN_ORDERS: Final = text(f"""
    SELECT status, count(*) AS orders
    FROM (
        SELECT status FROM generation.video_generations WHERE {OPEN_ORDER} ORDER BY deadline_at LIMIT :most
    ) AS open
    GROUP BY status
""")  # noqa: S608 - the only insertion is the index's condition
_IN_FLIGHT: Final = text(f"""
    SELECT o.model_id, o.lane, count(*) AS attempts
    FROM (
        SELECT generation_id FROM generation.attempts WHERE {LIVE_ATTEMPT} ORDER BY endpoint LIMIT :most
    ) AS a
    CROSS JOIN LATERAL (
        SELECT model_id, lane FROM generation.video_generations WHERE generation_id = a.generation_id LIMIT 1
    ) AS o
    GROUP BY o.model_id, o.lane
""")  # noqa: S608 - the only insertion is the index's condition
_CALLBACKS_OLDEST: Final = text("""
    SELECT CAST(coalesce(extract(epoch FROM clock_timestamp() - min(due_at)), 0) AS double precision)
    FROM generation.provider_callbacks
    WHERE processed_at IS NULL AND due_at <= clock_timestamp()
        AND (leased_until IS NULL OR leased_until < clock_timestamp())
""")
_ENDPOINTS: Final = text(f"""
    SELECT endpoint, coalesce(held_until > clock_timestamp(), false) AS paused, (
        SELECT count(*) FROM generation.attempts AS a WHERE a.endpoint = e.endpoint AND {LIVE_ATTEMPT}) AS live_attempts
    FROM generation.endpoints AS e
""")  # noqa: S608 - the only insertion is the index's condition


@dataclass(frozen=True, slots=True)
class QueueMeasurement:
    """Orders of one lane that could be served now, and the age of the oldest."""

    endpoint: str
    lane: str
    orders: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class EndpointMeasurement:
    """Whether an endpoint's queue is paused, and how many attempts may be using a worker there."""

    endpoint: str
    paused: bool
    live_attempts: int


@dataclass(frozen=True, slots=True)
class InFlight:
    """Live attempts at the orders of one model and lane."""

    model_id: str
    lane: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Measurements:
    """One moment's counts. ``open_orders`` maps a state to the orders in it.

    ``callbacks_oldest_seconds`` is how long the oldest callback has been due, 0 if none is.
    """

    queues: tuple[QueueMeasurement, ...]
    open_orders: dict[str, int]
    endpoints: tuple[EndpointMeasurement, ...]
    in_flight: tuple[InFlight, ...]
    callbacks_oldest_seconds: float


async def get_measurements(connection: AsyncConnection) -> Measurements:
    """Count everything that the gauges show."""
    most = {"most": MOST_COUNTED}
    return Measurements(
        tuple(QueueMeasurement(*row) for row in await connection.execute(_QUEUES)),
        {row.status: row.orders for row in await connection.execute(_OPEN_ORDERS, most)},
        tuple(EndpointMeasurement(*row) for row in await connection.execute(_ENDPOINTS)),
        tuple(InFlight(*row) for row in await connection.execute(_IN_FLIGHT, most)),
        float((await connection.execute(_CALLBACKS_OLDEST)).scalar_one()),
    )
