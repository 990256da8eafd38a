"""Drops verifications that were answered long ago, in short transactions.

A function of the database does it (migration 0004): the service itself may delete none.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from messaging.ids import FIRST_ID

MIN_AGE_DAYS: Final = 30
"""The function refuses less: until then a message may be delivered again, and only its row says that it was."""
ROWS_PER_STEP: Final = 2_000

_DROP: Final = sa.text("SELECT last_id, dropped FROM storage.drop_verifications(:min_age_days, :most_rows, :after_id)")


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many verifications are dropped so far."""

    verifications: int = 0


async def drop_old_verifications(engine: AsyncEngine, min_age_days: int) -> AsyncIterator[Dropped]:
    """Go through all verifications once; yields the sum after each step, which is one transaction.

    What a run did not come to is done by the next one. Raises if ``min_age_days`` is below ``MIN_AGE_DAYS``.
    """
    done = Dropped()
    after: UUID | None = FIRST_ID
    while after is not None:
        values = {"min_age_days": min_age_days, "most_rows": ROWS_PER_STEP, "after_id": after}
        async with engine.begin() as connection:
            after, dropped = (await connection.execute(_DROP, values)).one()
        done = Dropped(done.verifications + dropped)
        yield done
