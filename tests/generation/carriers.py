"""Bodies that carry files, as leased work. Workers in processes of their own import this, and so no harness."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.message import Service
from generation.repository.callbacks import (
    LEASES,
    Carrier,
    add_callback,
    claim_carriers,
    lock_due_callbacks,
    mark_carriers,
)
from generation.repository.fair_queue import claim_orders
from messaging.ids import new_id
from messaging.leases import LeasedTable
from messaging.transaction import Transaction
from tests.generation.orders import ENDPOINT, configure, enqueue, new_order
from tests.messaging.leases.case import LeaseCase


async def add_carriers(connection: AsyncConnection, count: int) -> None:
    """Bodies of one attempt that carry files."""
    await configure(connection)
    await enqueue(connection, [new_order(uuid4())])
    claimed = await claim_orders(connection, ENDPOINT, [new_id()], send_within_seconds=30, probe_seconds=30)
    for number in range(count):
        assert await add_callback(connection, claimed.orders[0].attempt_id, "webhook", f"body {number}".encode())
    await mark_carriers(connection, [one.callback_id for one in await lock_due_callbacks(connection, count)])


class CarrierCase(LeaseCase):
    """The service's own claim."""

    service: ClassVar[Service] = "generation"
    table: ClassVar[LeasedTable] = LEASES
    completed: ClassVar[Mapping[str, Any]] = {"processed_at": sa.func.clock_timestamp(), "outcome": "uploaded"}

    async def add(self, tx: Transaction, count: int) -> None:
        await add_carriers(tx.connection, count)

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[Carrier]:
        return await claim_carriers(connection, room, lease)
