"""The way of a request to its worker: claimed as it is recorded where a place is free, else as a row that is due."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from contracts.storage import AssetStored
from messaging.leases import Claim
from messaging.transaction import Transaction
from storage import repository
from storage.repository import ClaimedVerification, NewVerification


@dataclass(frozen=True, slots=True)
class Work:
    """A claimed verification, and the output that its generation has already."""

    verification: ClaimedVerification
    recorded: AssetStored | None

    @property
    def claim(self) -> Claim:
        """The right to work on it."""
        return self.verification.claim


class Worker(Protocol):
    """What ``LeasedWorker`` does for it."""

    def reserve(self, count: int) -> bool: ...

    def begin(self, count: int, rows: Sequence[Work]) -> None: ...


class Intake:
    """Records requests, and hands them to the worker of this process, which is attached later."""

    def __init__(self, wake_up: asyncio.Event) -> None:
        self.wake_up = wake_up
        self._worker: Worker | None = None

    def attach(self, worker: Worker) -> None:
        """Say who works on the requests. Until then, ``wake_up`` wakes whoever it is."""
        self._worker = worker

    async def record(self, tx: Transaction, requested: Sequence[NewVerification]) -> None:
        """Record what messages request, at the end of the transaction, and begin with it after the commit.

        To claim it later would be one more transaction, and the user would wait for its commit. Requests that find too
        few places, and those whose generation has an output, take their turn among the rows that are due.
        """
        worker, count = self._worker, len(requested)
        if worker is None or not worker.reserve(count):
            await repository.add_verifications(tx, requested)
            tx.after_commit(self.wake_up.set)
            return
        tx.unless_committed(partial(worker.begin, count, ()))
        begin = partial(self._begin, worker, count)
        await repository.add_claimed_verifications(tx, requested, begin)

    def _begin(self, worker: Worker, count: int, claimed: Sequence[ClaimedVerification]) -> None:
        worker.begin(count, [Work(one, None) for one in claimed])
        if len(claimed) < count:
            self.wake_up.set()
