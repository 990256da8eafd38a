"""What the gauges show: queue depth and age, open orders, live attempts, paused endpoints."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from generation.tables import LIVE_ATTEMPT, OPEN_ORDER

_QUEUES: Final = text("""
    SELECT endpoint, lane, count(*) AS orders,
           CAST(extract(epoch FROM clock_timestamp() - min(enqueued_at)) AS double precision) AS oldest_seconds
    FROM generation.video_generations WHERE ready GROUP BY endpoint, lane
""")
_OPEN_ORDERS: Final = text(f"""
    SELECT status, count(*) AS orders FROM generation.video_generations
    WHERE {OPEN_ORDER} GROUP BY status
""")  # noqa: S608 - the only insertion is the index's condition
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
class Measurements:
    """One moment's counts. ``open_orders`` maps a state to the orders in it."""

    queues: tuple[QueueMeasurement, ...]
    open_orders: dict[str, int]
    endpoints: tuple[EndpointMeasurement, ...]


async def get_measurements(connection: AsyncConnection) -> Measurements:
    """Count everything that the gauges show."""
    return Measurements(
        tuple(QueueMeasurement(*row) for row in await connection.execute(_QUEUES)),
        {row.status: row.orders for row in await connection.execute(_OPEN_ORDERS)},
        tuple(EndpointMeasurement(*row) for row in await connection.execute(_ENDPOINTS)),
    )
