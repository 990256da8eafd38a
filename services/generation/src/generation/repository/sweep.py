"""What there may be to do, asked in one statement. Each condition is that of the statement that takes the rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from generation.repository.attempts import DUE_CANCEL, DUE_CHECK
from generation.repository.callbacks import DUE_CALLBACK, DUE_CARRIER
from generation.repository.fair_queue import has_work_sql
from generation.repository.timers import DUE_RETRY, OVERDUE
from service_runtime.statements import Statement


def _is_due(rows: str, timer: str) -> str:
    """Whether there are such rows. The order leads to the index of the timer, also where the planner knows nothing.

    EXISTS would read a table whole of which the planner believes that a third is due.
    """
    return f"(SELECT true FROM {rows} ORDER BY {timer} LIMIT 1) IS NOT NULL"  # noqa: S608 - constants


_FIND_DUE: Final = Statement(f"""
    SELECT ARRAY(SELECT e.endpoint FROM generation.endpoints AS e WHERE {has_work_sql("e.endpoint")}),
           {_is_due(f"generation.provider_callbacks AS c WHERE {DUE_CALLBACK}", "c.due_at")},
           {_is_due(f"generation.provider_callbacks AS d WHERE {DUE_CARRIER}", "d.due_at")},
           {_is_due(f"generation.attempts WHERE {DUE_CHECK}", "check_at")},
           {_is_due(f"generation.attempts WHERE {DUE_CANCEL}", "cancel_due_at")},
           {_is_due(f"generation.video_generations WHERE {OVERDUE}", "deadline_at")}
           OR {_is_due(f"generation.video_generations WHERE {DUE_RETRY}", "next_attempt_at")}
           OR EXISTS (SELECT FROM generation.cancellations)
""")  # noqa: S608 - the insertions are constants


@dataclass(frozen=True, slots=True)
class Due:
    """``endpoints`` have orders to claim. The rest says whether there is anything; it may be locked."""

    endpoints: Sequence[str]
    callbacks: bool
    file_transfers: bool
    checks: bool
    cancels: bool
    timers: bool


async def find_due(connection: AsyncConnection) -> Due:
    """What there may be to do for the loops of this service."""
    (found,) = await _FIND_DUE.fetch(connection, {})
    return Due(*found)
