"""Verifications, as leased work. Workers in processes of their own import this, and so no harness."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.message import Service
from messaging.ids import new_id
from messaging.leases import LeasedTable
from messaging.transaction import Transaction
from storage import repository
from storage.due_work import INPUT_SUBJECTS
from storage.repository import ClaimedVerification, NewVerification
from storage.tables import VERIFICATIONS
from tests.messaging.leases.case import LeaseCase


class VerificationCase(LeaseCase):
    """Verifications of several users, claimed by storage's own query."""

    service: ClassVar[Service] = "storage"
    table: ClassVar[LeasedTable] = VERIFICATIONS
    completed: ClassVar[Mapping[str, Any]] = {"answer": "done", "answered_at": sa.func.now()}

    async def add(self, tx: Transaction, count: int) -> None:
        requested = [
            NewVerification(
                message_id=new_id(),
                subject=INPUT_SUBJECTS[0],
                generation_id=uuid4(),
                user_id=uuid4(),
                payload=b"{}",
                traceparent=None,
            )
            for _ in range(count)
        ]
        await repository.add_verifications(tx, requested)

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[ClaimedVerification]:
        return await repository.claim_due(connection, INPUT_SUBJECTS, room, lease)
