"""The balance and the statement."""

import csv
import io
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import queries
from gateway.dependencies import CurrentParts, CurrentUser
from gateway.domain import LARGEST_NUMBER
from gateway.openapi import Responses
from gateway.representations import BalanceShown, LedgerPage, Limit, LineShown, show_line

router = APIRouter(tags=["account"])

CSV_PAGE = 1000

_CONTROLS = ("\t", "\r", "\n")
_FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")

STATEMENT: Responses = {200: {"model": LedgerPage, "content": {"text/csv": {"schema": {"type": "string"}}}}}


@router.get("/v1/balance", operation_id="getBalance")
async def get_balance(parts: CurrentParts, user: CurrentUser) -> BalanceShown:
    """What can be spent, what is held, what was spent, and what is owed."""
    row, settled = await queries.find_balance(parts.engine, user.user_id)
    return BalanceShown(
        available_credits=0 if row is None else row.available_credits,
        reserved_credits=0 if row is None else row.reserved_credits,
        settled_credits=settled,
        receivable_credits=0 if row is None else row.receivable_credits,
        updated_at=None if row is None else row.updated_at,
    )


@router.get("/v1/ledger", operation_id="getLedger", response_model=LedgerPage, responses=STATEMENT)
async def get_ledger(
    parts: CurrentParts,
    user: CurrentUser,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    format: Annotated[Literal["json", "csv"] | None, Query(description="Or send 'Accept: text/csv'.")] = None,
    before: Annotated[
        int | None, Query(ge=1, le=LARGEST_NUMBER, description="Lines below this number; from next_before.")
    ] = None,
    limit: Limit = 50,
) -> Any:
    """Every movement of the user's credits: JSON pages, newest first, or the whole statement as CSV, oldest first."""
    if format == "csv" or (format is None and "text/csv" in accept):
        headers = {"Content-Disposition": 'attachment; filename="statement.csv"', "Cache-Control": "no-store"}
        return StreamingResponse(_csv(parts.engine, user.user_id), media_type="text/csv", headers=headers)
    rows = await queries.list_lines(parts.engine, user.user_id, before, limit + 1)
    page = rows[:limit]
    following = page[-1].line_number if len(rows) > limit else None
    return LedgerPage(items=[show_line(row) for row in page], next_before=following)


async def _csv(engine: AsyncEngine, user_id: UUID) -> AsyncIterator[str]:
    """Page by page, so that no connection is held while a slow client reads."""
    names = list(LineShown.model_fields)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(names)
    last = 0
    while True:
        rows = await queries.list_lines(engine, user_id, last, CSV_PAGE, oldest_first=True)
        for row in rows:
            shown = show_line(row).model_dump(mode="json")
            writer.writerow([_cell(shown[name]) for name in names])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        if len(rows) < CSV_PAGE:
            return
        last = rows[-1].line_number


def _cell(value: Any) -> Any:
    """A note may hold anything: a spreadsheet must not take it for a formula."""
    if isinstance(value, str) and (value[:1] in _CONTROLS or value.lstrip()[:1] in _FORMULAS):
        return f"'{value}"
    return "" if value is None else value
