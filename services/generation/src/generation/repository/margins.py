"""What ended orders brought in and cost, by model, tier and size; and what attempts cost, by endpoint."""

from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from generation.domain.margins import EndpointCost, OrdersOfSize

MOST_ROWS: Final = 1000

_BY_SIZE: Final = text("""
    WITH ended AS MATERIALIZED (
        SELECT generation_id, model_id, coalesce(tier, 'unknown') AS tier, expected_width_pixels,
               expected_height_pixels, expected_duration_ms, status = 'completed' AND NOT late AS delivered,
               price_credits, planned_cost_micro_usd
        FROM generation.video_generations WHERE finished_at >= :begin AND finished_at < :end
    ), spent AS (
        SELECT generation_id, count(*) AS attempts, coalesce(sum(cost_micro_usd), 0) AS cost_micro_usd,
               count(*) FILTER (WHERE gpu_assumed OR execution_assumed) AS assumed
        FROM generation.attempts JOIN ended USING (generation_id) GROUP BY generation_id
    )
    SELECT model_id, tier, expected_width_pixels AS width_pixels, expected_height_pixels AS height_pixels,
           expected_duration_ms AS duration_ms, count(*) AS orders,
           count(*) FILTER (WHERE delivered) AS delivered,
           CAST(coalesce(sum(price_credits) FILTER (WHERE delivered), 0) AS bigint) AS captured_credits,
           CAST(coalesce(sum(attempts), 0) AS bigint) AS attempts,
           CAST(coalesce(sum(assumed), 0) AS bigint) AS assumed_attempts,
           CAST(coalesce(sum(cost_micro_usd), 0) AS bigint) AS cost_micro_usd,
           CAST(coalesce(sum(planned_cost_micro_usd), 0) AS bigint) AS planned_cost_micro_usd,
           CAST(coalesce(sum(price_credits) FILTER (WHERE planned_cost_micro_usd IS NOT NULL), 0) AS bigint)
               AS planned_credits
    FROM ended LEFT JOIN spent USING (generation_id)
    GROUP BY model_id, tier, expected_width_pixels, expected_height_pixels, expected_duration_ms
    ORDER BY model_id, tier, expected_width_pixels * expected_height_pixels, expected_duration_ms
    LIMIT :limit
""")

_BY_ENDPOINT: Final = text("""
    SELECT endpoint_id, CAST(coalesce(sum(cost_micro_usd), 0) AS bigint) AS cost_micro_usd,
           CAST(coalesce(sum(execution_ms + coalesce(cold_start_ms, 0)), 0) AS bigint) AS worker_ms
    FROM generation.attempts WHERE ended_at >= :begin AND ended_at < :end
    GROUP BY endpoint_id ORDER BY endpoint_id
""")


async def get_orders_by_size(connection: AsyncConnection, begin: datetime, end: datetime) -> list[OrdersOfSize]:
    """The orders that ended from ``begin`` to before ``end``; of more than ``MOST_ROWS`` sizes the first ones."""
    rows = await connection.execute(_BY_SIZE, {"begin": begin, "end": end, "limit": MOST_ROWS})
    return [OrdersOfSize(**row) for row in rows.mappings()]


async def get_costs_by_endpoint(connection: AsyncConnection, begin: datetime, end: datetime) -> list[EndpointCost]:
    """The attempts that ended in that time."""
    rows = await connection.execute(_BY_ENDPOINT, {"begin": begin, "end": end})
    return [EndpointCost(**row) for row in rows.mappings()]
