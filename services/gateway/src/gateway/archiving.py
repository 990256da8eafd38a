"""Moves the timelines of old orders into one row each, and drops old events of balances, in short transactions.

The database's functions do it (migration 0012): the service itself may delete no entry.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from messaging.ids import FIRST_ID

MIN_AGE_DAYS: Final = 30
"""The functions refuse less: until then a message may be delivered again, and only its entry says that it was."""
SUBJECTS_PER_STEP: Final = 200
ROWS_PER_STEP: Final = 5_000

_ARCHIVE: Final = sa.text("""
    SELECT last_id, orders, entries FROM gateway.archive_timelines(:min_age_days, :most_subjects, :after_id)
""")
_DROP: Final = sa.text("""
    SELECT last_user, last_sequence, entries
    FROM gateway.drop_balance_entries(:min_age_days, :most_rows, :after_user, :after_sequence)
""")


@dataclass(frozen=True, slots=True)
class Archived:
    """What is done so far."""

    orders: int = 0
    entries: int = 0
    """Moved, of these orders."""
    balance_entries: int = 0
    """Dropped."""


async def archive(engine: AsyncEngine, min_age_days: int) -> AsyncIterator[Archived]:
    """Go through the whole history once, oldest orders first; yields the sum after each step.

    A step is one transaction: an order is wholly here or wholly there, whenever this ends. What a run did not come to
    is done by the next one. Raises if ``min_age_days`` is below ``MIN_AGE_DAYS``.
    """
    done = Archived()
    after: UUID | None = FIRST_ID
    while after is not None:
        values = {"min_age_days": min_age_days, "most_subjects": SUBJECTS_PER_STEP, "after_id": after}
        async with engine.begin() as connection:
            after, orders, entries = (await connection.execute(_ARCHIVE, values)).one()
        done = Archived(done.orders + orders, done.entries + entries)
        yield done
    user: UUID | None = FIRST_ID
    sequence = 0
    while user is not None:
        values = {"min_age_days": min_age_days, "most_rows": ROWS_PER_STEP, "after_user": user}
        async with engine.begin() as connection:
            row = (await connection.execute(_DROP, {**values, "after_sequence": sequence})).one()
        user, sequence = row.last_user, row.last_sequence
        done = Archived(done.orders, done.entries, done.balance_entries + row.entries)
        yield done
