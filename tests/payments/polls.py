"""Polls of payments, as leased work. Workers in processes of their own import this, and so no harness."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from sqlalchemy.ext.asyncio import AsyncConnection

from catalogue.credit_packs import load_credit_packs
from contracts.message import Service
from messaging.ids import new_id
from messaging.leases import LeasedTable
from messaging.transaction import Transaction
from payments.domain.records import PaymentRecord
from payments.repository import payments
from payments.repository.leases import PAYMENTS, Claimed
from tests.messaging.leases.case import LeaseCase


async def add_payments(connection: AsyncConnection, count: int) -> list[PaymentRecord]:
    """Payments that nobody has paid yet."""
    pack = load_credit_packs()[0]
    added = []
    for _ in range(count):
        payment = await payments.add_payment(
            connection,
            payment_id=new_id(),
            user_id=new_id(),
            provider="stripe",
            pack=pack,
            lifetime=timedelta(hours=1),
        )
        assert payment is not None
        added.append(payment)
    return added


class PollCase(LeaseCase):
    """Payments that are due to be polled."""

    service: ClassVar[Service] = "payments"
    table: ClassVar[LeasedTable] = PAYMENTS
    completed: ClassVar[Mapping[str, Any]] = {}

    async def add(self, tx: Transaction, count: int) -> None:
        await add_payments(tx.connection, count)

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[Claimed[PaymentRecord]]:
        return await payments.claim_due(connection, "stripe", room, lease)
