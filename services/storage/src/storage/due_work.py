"""Asks in one statement what is due, and wakes the workers that have something to do.

What this process records itself it wakes them for at once. The rest comes with time, or from other replicas.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from contracts.generation import OutputReady, OutputSought
from contracts.storage import VerifyInputs
from messaging.database import single_statements
from messaging.transaction import Transactions
from storage.repository import find_due

OUTPUT_SUBJECTS: Final = (OutputReady.subject, OutputSought.subject)
INPUT_SUBJECTS: Final = (VerifyInputs.subject,)
SELDOM: Final = 10
"""So many polls apart are the looks of a worker that nothing has woken."""


@dataclass(frozen=True, slots=True)
class WakeUps:
    """One per process. Nothing is lost if a wake-up is: ``DueWork`` finds it, and every worker also polls."""

    outputs: asyncio.Event = field(default_factory=asyncio.Event)
    inputs: asyncio.Event = field(default_factory=asyncio.Event)
    deletions: asyncio.Event = field(default_factory=asyncio.Event)
    previews: asyncio.Event = field(default_factory=asyncio.Event)


class DueWork:
    """``wake_workers`` is the round of a loop."""

    def __init__(self, transactions: Transactions, wake_ups: WakeUps) -> None:
        self._transactions = transactions
        self._wake_ups = wake_ups

    async def wake_workers(self) -> None:
        """Wake the workers that have something to do. Mostly there is nothing."""
        async with single_statements(self._transactions.engine) as connection:
            due = await find_due(connection, OUTPUT_SUBJECTS, INPUT_SUBJECTS)
        wake_ups = self._wake_ups
        for is_due, wake_up in (
            (due.outputs, wake_ups.outputs),
            (due.inputs, wake_ups.inputs),
            (due.deletions, wake_ups.deletions),
            (due.previews, wake_ups.previews),
        ):
            if is_due:
                wake_up.set()
