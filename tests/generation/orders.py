"""Orders as the tests of generation need them: real rows through the real repository."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.values import Lane
from generation.repository.endpoints import EndpointLimits, configure_endpoints
from generation.repository.orders import NewOrder, adding_orders
from messaging.ids import new_id
from service_runtime.statements import Statement

ENDPOINT: Final = "wan"
WEIGHTS: Final[Mapping[Lane, int]] = {"pro": 6, "standard": 3, "free": 1}
CAPS: Final[Mapping[Lane, int]] = {"pro": 8, "standard": 4, "free": 2}
LONG_AFTER: Final = datetime.now(UTC) + timedelta(days=1)


def limits(endpoint: str = ENDPOINT, **changes: Any) -> EndpointLimits:
    """Generous limits, so that a test names the one that it is about."""
    values: dict[str, Any] = {
        "endpoint_id": f"{endpoint}-id",
        "max_active": 1000,
        "rate_per_second": 1000.0,
        "burst": 1000,
    }
    return EndpointLimits(endpoint=endpoint, **(values | changes))


async def configure(
    connection: AsyncConnection,
    *endpoint_limits: EndpointLimits,
    weights: Mapping[Lane, int] = WEIGHTS,
    caps: Mapping[Lane, int] = CAPS,
) -> None:
    """Endpoints, lanes and caps as a starting service sets them."""
    await configure_endpoints(connection, endpoint_limits or (limits(),), weights, caps)


def new_order(user_id: UUID, lane: Lane = "standard", **changes: Any) -> NewOrder:
    """An order that is ready to be served."""
    values: dict[str, Any] = {
        "generation_id": new_id(),
        "model_id": "wan-2.2-t2v",
        "kind": "video",
        "endpoint": ENDPOINT,
        "price_credits": 30,
        "parameters": {"prompt": "a lighthouse"},
        "uploads": {},
        "inputs_ready": True,
        "requested_at": datetime.now(UTC),
        "expires_at": LONG_AFTER,
        "expected_width_pixels": 832,
        "expected_height_pixels": 480,
        "expected_duration_ms": 5000,
        "max_size_bytes": 1_000_000,
        "output_extension": "mp4",
        "execution_timeout_seconds": 600,
        "traceparent": None,
    }
    return NewOrder(user_id=user_id, lane=lane, **(values | changes))


async def enqueue(
    connection: AsyncConnection, orders: Sequence[NewOrder], caps: Mapping[Lane, int] = CAPS
) -> list[UUID]:
    """Put the orders into the queue and return their ids in the same order."""
    writes, values = adding_orders(orders, caps)
    await Statement(f"WITH {writes.parts} SELECT {writes.result}").fetch(connection, values)
    return [order.generation_id for order in orders]
