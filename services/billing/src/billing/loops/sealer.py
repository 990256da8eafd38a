"""Extends the hash chain behind the ledger, over closed ranges only."""

from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from billing import metrics
from billing.repository import seals
from billing.repository.seals import Horizon
from contracts.ledger_chain import Head, head_of, link
from messaging.database import single_statements

POSTINGS_PER_SEAL: Final = 2_000
"""Bounds one sealing transaction to a few tens of milliseconds and one seal row to about 80 kB."""


class Sealer:
    """Seals what can no longer change. Any number may run: one at a time extends the chain.

    A posting id says nothing about when its transaction commits, so the newest ids cannot be sealed. The sealer reads
    how far ids have been handed out, waits until every transaction that may use one of them has ended, and seals up
    to there. A row that appears in that range later was not written by a transaction of the service.

    A server that was restored, or took over, may lack the last ids and transactions, and hands them out again: what was
    noted on another server is noted anew.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._horizon: Horizon | None = None

    async def seal(self) -> Head:
        """Seal the range that the call before noted, if it is closed by now, and note the next one."""
        async with single_statements(self._engine) as connection:
            final = await seals.find_final_head(connection)
        if final is not None:
            metrics.UNSEALED.set(0)
            metrics.SEAL_NUMBER.set(final.seal_number)
            return final
        closed_through = await self._closed_through()
        while closed_through is not None and await self._seal_once(closed_through):
            pass
        async with self._engine.connect() as connection:
            head = await seals.get_head(connection)
            metrics.UNSEALED.set(await seals.count_unsealed(connection, head))
        metrics.SEAL_NUMBER.set(head.seal_number)
        return head

    async def _closed_through(self) -> int | None:
        async with self._engine.begin() as connection:
            closed: int | None = None
            if self._horizon is not None:
                is_closed = await seals.is_closed(connection, self._horizon)
                if is_closed is False:
                    return None
                closed = self._horizon.posting_id if is_closed else None
            self._horizon = await seals.get_horizon(connection)
        return closed

    async def _seal_once(self, closed_through: int) -> bool:
        """Add one seal; whether there may be more to do."""
        async with self._engine.begin() as connection:
            if not await seals.lock_chain(connection):
                return False
            head = await seals.get_head(connection)
            postings = await seals.find_postings(connection, head.through_posting_id, closed_through, POSTINGS_PER_SEAL)
            if not postings:
                return False
            more = len(postings) == POSTINGS_PER_SEAL
            seal = link(head, postings[-1].posting_id if more else closed_through, postings)
            await seals.add_seal(connection, seal)
            metrics.SEAL_NUMBER.set(head_of(seal).seal_number)
        return more
