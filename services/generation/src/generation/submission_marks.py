"""Marks attempts as being sent, many with one commit, just before their requests leave."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from generation.repository.attempts import mark_sending
from generation.repository.fair_queue import ClaimedOrder
from messaging.database import single_statements
from messaging.failpoints import failpoint
from messaging.transaction import Transactions


@dataclass(frozen=True, slots=True)
class _Waiting:
    order: ClaimedOrder
    marked: asyncio.Future[bool]


class SubmissionMarks:
    """``mark`` returns once the mark is committed. What comes while one commit is under way shares the next."""

    def __init__(self, transactions: Transactions, lease_seconds: float) -> None:
        self._transactions = transactions
        self._lease_seconds = lease_seconds
        self._waiting: list[_Waiting] = []
        self._committing: asyncio.Task[None] | None = None

    async def mark(self, order: ClaimedOrder) -> bool:
        """Whether the attempt may be sent now. False if it was cancelled, or given up because it waited too long.

        Raises what the database raises; the attempt must not be sent then, though the mark may have been made.
        """
        waiting = _Waiting(order, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all(), name="submission-marks")
        return await waiting.marked

    async def _commit_all(self) -> None:
        # Let every task that is ready to send come in.
        await asyncio.sleep(0)
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                marked = await self._commit([one.order for one in waiting])
            except Exception as error:  # noqa: BLE001 - whatever it is, each of those that wait is told
                _answer(waiting, error)
            else:
                _answer(waiting, marked)
        self._committing = None

    async def _commit(self, orders: Sequence[ClaimedOrder]) -> set[UUID]:
        failpoint("dispatcher.before_mark")
        async with single_statements(self._transactions.engine) as connection:
            marked = await mark_sending(
                connection, [(order.attempt_id, order.fence_token) for order in orders], self._lease_seconds
            )
        failpoint("dispatcher.after_mark")
        return marked


def _answer(waiting: Sequence[_Waiting], outcome: set[UUID] | Exception) -> None:
    for one in waiting:
        if one.marked.cancelled():
            continue
        if isinstance(outcome, Exception):
            one.marked.set_exception(outcome)
        else:
            one.marked.set_result(one.order.attempt_id in outcome)
