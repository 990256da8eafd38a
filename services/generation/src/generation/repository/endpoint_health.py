"""What the provider says of its endpoints: asked by one replica at a time, shown by all of them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_TAKE_DUE: Final = text("""
    UPDATE generation.endpoint_health AS h SET due_at = clock_timestamp() + make_interval(secs => :interval_seconds)
    FROM (
        SELECT endpoint FROM generation.endpoint_health
        WHERE endpoint = ANY(CAST(:endpoints AS text[])) AND due_at <= clock_timestamp()
        ORDER BY endpoint
        FOR UPDATE SKIP LOCKED
    ) AS due
    WHERE h.endpoint = due.endpoint
    RETURNING h.endpoint
""")

_RECORD: Final = text("""
    UPDATE generation.endpoint_health
    SET measured_at = CASE WHEN CAST(:workers AS jsonb) IS NOT NULL THEN clock_timestamp() END,
        workers = CAST(:workers AS jsonb), jobs = CAST(:jobs AS jsonb), max_workers = :max_workers
    WHERE endpoint = :endpoint
""")

_GET: Final = text("""
    SELECT endpoint, coalesce(workers, '{}') AS workers, coalesce(jobs, '{}') AS jobs, max_workers
    FROM generation.endpoint_health
    WHERE endpoint = ANY(CAST(:endpoints AS text[]))
      AND measured_at > clock_timestamp() - make_interval(secs => :oldest_seconds)
""")

# A claim from the queue refills the endpoint's tokens: it is the last sign of an order.
_TAKE_KEEP_ALIVE: Final = text("""
    UPDATE generation.endpoint_health AS h SET keep_alive_at = clock_timestamp()
    FROM generation.endpoints AS e
    WHERE e.endpoint = h.endpoint AND h.endpoint = :endpoint
      AND greatest(e.tokens_at, h.keep_alive_at) < clock_timestamp() - make_interval(secs => :idle_seconds)
    RETURNING h.endpoint
""")

_REPEAT_KEEP_ALIVE: Final = text("""
    UPDATE generation.endpoint_health
    SET keep_alive_at = clock_timestamp() - make_interval(secs => :idle_seconds) + make_interval(secs => :pause_seconds)
    WHERE endpoint = :endpoint
""")


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """The provider's counts of one endpoint, by state. ``max_workers`` is None where it is not told."""

    endpoint: str
    workers: Mapping[str, int]
    jobs: Mapping[str, int]
    max_workers: int | None


async def take_due_endpoints(
    connection: AsyncConnection, endpoints: Collection[str], interval_seconds: float
) -> list[str]:
    """The endpoints that are due to be asked about; each comes again after ``interval_seconds``."""
    values = {"endpoints": sorted(endpoints), "interval_seconds": interval_seconds}
    return sorted((await connection.execute(_TAKE_DUE, values)).scalars())


async def record_health(
    connection: AsyncConnection,
    endpoint: str,
    workers: Mapping[str, int] | None,
    jobs: Mapping[str, int] | None,
    max_workers: int | None,
) -> None:
    """Write an answer down. ``workers`` is None if there was none: then nothing is known of the endpoint."""
    values = {
        "endpoint": endpoint,
        "workers": None if workers is None else msgspec.json.encode(workers).decode(),
        "jobs": None if jobs is None else msgspec.json.encode(jobs).decode(),
        "max_workers": max_workers,
    }
    await connection.execute(_RECORD, values)


async def get_health(
    connection: AsyncConnection, endpoints: Collection[str], oldest_seconds: float
) -> list[EndpointHealth]:
    """What is known of these endpoints, if it is not older than ``oldest_seconds``."""
    values = {"endpoints": sorted(endpoints), "oldest_seconds": oldest_seconds}
    return [EndpointHealth(*row) for row in await connection.execute(_GET, values)]


async def take_keep_alive(connection: AsyncConnection, endpoint: str, idle_seconds: float) -> bool:
    """Whether the endpoint was idle for so long that it is to be kept alive now. One replica is told so."""
    values = {"endpoint": endpoint, "idle_seconds": idle_seconds}
    return (await connection.execute(_TAKE_KEEP_ALIVE, values)).first() is not None


async def repeat_keep_alive(
    connection: AsyncConnection, endpoint: str, idle_seconds: float, pause_seconds: float
) -> None:
    """The job was not taken: try again after ``pause_seconds``."""
    values = {"endpoint": endpoint, "idle_seconds": idle_seconds, "pause_seconds": pause_seconds}
    await connection.execute(_REPEAT_KEEP_ALIVE, values)
