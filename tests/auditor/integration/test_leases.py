"""Scans of the library are leased work: they keep the rules of every leased table."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from auditor.repository import library
from auditor.repository.library import LibraryScan
from auditor.tables import LIBRARY_SCANS
from contracts.message import Service
from messaging.leases import LeasedTable
from messaging.transaction import Transaction
from tests.messaging.leases.case import LeaseCase
from tests.messaging.leases.conformance import LeaseRules


class LibraryScanCase(LeaseCase):
    """Scans that are due; one that is never due again stands for a completed one."""

    service: ClassVar[Service] = "auditor"
    table: ClassVar[LeasedTable] = LIBRARY_SCANS
    completed: ClassVar[Mapping[str, Any]] = {"due_at": datetime(9999, 1, 1, tzinfo=UTC)}

    async def add(self, tx: Transaction, count: int) -> None:
        end = await library.find_end(tx.connection)
        for number in range(count):
            await library.add_scan(tx.connection, UUID(int=end.int + number), UUID(int=end.int + number + 1))

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[LibraryScan]:
        return await library.claim_scans(connection, "assets", room, lease)


class TestLibraryScanLeases(LeaseRules):
    case = LibraryScanCase
