"""Whether an endpoint's queue flows: its breaker, and the pauses that the provider asks for (429 with Retry-After).

From failure number ``threshold`` in a row on the endpoint is paused, longer with each further one. After the pause one
order at a time is a probe (``fair_queue``); the first probe that succeeds lets the queue flow again.

An endpoint is locked before orders, never after: each of these functions needs a transaction without orders.
"""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from generation.domain.policy import BreakerPolicy

# Only a probe may end a pause: the answers to what was sent before the pause come in late.
_RECORD_SUCCESS: Final = text("""
    UPDATE generation.endpoints SET consecutive_failures = 0, held_until = NULL
    WHERE endpoint = :endpoint AND (:probe OR (held_until IS NULL AND consecutive_failures > 0))
""")

_RECORD_FAILURE: Final = text("""
    UPDATE generation.endpoints SET consecutive_failures = consecutive_failures + 1, held_until = NULL
    WHERE endpoint = :endpoint AND (:probe OR held_until IS NULL)
    RETURNING consecutive_failures
""")

_PAUSE: Final = text("""
    UPDATE generation.endpoints
    SET held_until = greatest(held_until, clock_timestamp() + make_interval(secs => :seconds))
    WHERE endpoint = :endpoint
""")


async def record_success(connection: AsyncConnection, endpoint: str, *, probe: bool) -> None:
    """The endpoint took a job: forget its failures, and let the queue flow again if this was the probe."""
    await connection.execute(_RECORD_SUCCESS, {"endpoint": endpoint, "probe": probe})


async def record_failure(connection: AsyncConnection, endpoint: str, policy: BreakerPolicy, *, probe: bool) -> None:
    """The endpoint took no job. Failures of jobs that were sent before a pause do not make it longer."""
    failures = (await connection.execute(_RECORD_FAILURE, {"endpoint": endpoint, "probe": probe})).scalar()
    if failures is not None and failures >= policy.threshold:
        await pause_queue(connection, endpoint, policy.pauses.seconds(failures - policy.threshold + 1, endpoint))


async def pause_queue(connection: AsyncConnection, endpoint: str, seconds: float) -> None:
    """Claim nothing for so long. A pause that is longer already stays."""
    await connection.execute(_PAUSE, {"endpoint": endpoint, "seconds": seconds})
