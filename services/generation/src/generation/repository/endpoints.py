"""Endpoints, their lanes and the users' caps, as the settings of a process want them."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.values import Lane

FULL_STRIDE: Final = 1_000_000
"""Stride of a lane of weight 1."""

_ADD_ENDPOINTS: Final = text("""
    INSERT INTO generation.endpoints AS e (endpoint, endpoint_id, max_active, rate_per_second, burst, tokens)
    SELECT endpoint, endpoint_id, max_active, rate_per_second, burst, burst
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(endpoint text, endpoint_id text, max_active integer, rate_per_second double precision, burst integer)
    ORDER BY endpoint
    ON CONFLICT (endpoint) DO UPDATE SET endpoint_id = excluded.endpoint_id, max_active = excluded.max_active,
        rate_per_second = excluded.rate_per_second, burst = excluded.burst
""")

_ADD_HEALTH: Final = text("""
    INSERT INTO generation.endpoint_health (endpoint) SELECT unnest(CAST(:endpoints AS text[]))
    ON CONFLICT (endpoint) DO NOTHING
""")

_ADD_LANES: Final = text("""
    INSERT INTO generation.lanes AS l (endpoint, lane, stride)
    SELECT endpoint, lane, stride
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(endpoint text, lane text, stride bigint)
    ORDER BY endpoint, lane
    ON CONFLICT (endpoint, lane) DO UPDATE SET stride = excluded.stride
""")

_SET_CAPS: Final = text("""
    WITH locked AS MATERIALIZED (
        SELECT endpoint, lane, user_id FROM generation.user_queues
        WHERE lane = :lane AND active_cap <> :active_cap
        ORDER BY endpoint, lane, user_id
        FOR UPDATE
    )
    UPDATE generation.user_queues AS q SET active_cap = :active_cap
    FROM locked AS l
    WHERE q.endpoint = l.endpoint AND q.lane = l.lane AND q.user_id = l.user_id
""")


class EndpointLimits(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint of the provider: its id there, how many jobs it may hold, and how fast it takes them."""

    endpoint: str
    endpoint_id: str
    max_active: int
    rate_per_second: float
    burst: int


class _Lane(msgspec.Struct, frozen=True):
    """One lane of one endpoint. Serving an order adds ``stride`` to the lane's tag."""

    endpoint: str
    lane: Lane
    stride: int


async def configure_endpoints(
    connection: AsyncConnection,
    limits: Sequence[EndpointLimits],
    lane_weights: Mapping[Lane, int],
    active_caps: Mapping[Lane, int],
) -> None:
    """Bring endpoints, lanes and caps in line with the settings of this process. Repeatable."""
    await connection.execute(_ADD_ENDPOINTS, {"rows": _json(limits)})
    await connection.execute(_ADD_HEALTH, {"endpoints": sorted(limit.endpoint for limit in limits)})
    lanes = [
        _Lane(limit.endpoint, lane, FULL_STRIDE // weight) for limit in limits for lane, weight in lane_weights.items()
    ]
    await connection.execute(_ADD_LANES, {"rows": _json(lanes)})
    for lane, active_cap in sorted(active_caps.items()):
        await connection.execute(_SET_CAPS, {"lane": lane, "active_cap": active_cap})


def _json(rows: Sequence[msgspec.Struct]) -> str:
    return msgspec.json.encode(rows).decode()
