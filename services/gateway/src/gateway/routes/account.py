"""The balance, the statement and the usage."""

import contextlib
import csv
import io
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from pydantic import BeforeValidator, Field
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import queries, receipts
from gateway.domain import LARGEST_NUMBER, written_number
from gateway.errors import (
    LedgerHeadNotFound,
    LedgerLineNotFound,
    LineNotSealed,
    ReceiptNotProvable,
    ReceiptsUnavailable,
)
from gateway.openapi import Responses, refusals
from gateway.receipt_representations import (
    LedgerConsistency,
    LedgerHeadPage,
    LedgerReceipt,
    represent_head,
    represent_posting,
)
from gateway.representations import (
    Balance,
    Day,
    LedgerLine,
    LedgerPage,
    Limit,
    Usage,
    UsageEntry,
    represent_line,
)
from gateway.routes.request_context import CurrentDependencies, CurrentUser
from gateway.routes.streamed_answers import StreamedAnswer
from service_runtime.problems import InvalidRequest, named_errors

router = APIRouter(tags=["account"])

CSV_PAGE: Final = 250
"""Lines that are written without a pause: they take some milliseconds, in which nobody else is answered."""
DEFAULT_DAYS: Final = timedelta(days=29)
MOST_DAYS: Final = timedelta(days=92)

_CONTROLS: Final = ("\t", "\r", "\n")
_FORMULAS: Final = ("=", "+", "-", "@", "＝", "＋", "－", "＠")

LineNumber = Annotated[int, Field(ge=1, le=LARGEST_NUMBER), BeforeValidator(written_number)]
TreeSize = LineNumber

STATEMENT: Responses = {200: {"model": LedgerPage, "content": {"text/csv": {"schema": {"type": "string"}}}}}


@router.get("/v1/balance", operation_id="getBalance")
async def get_balance(dependencies: CurrentDependencies, user: CurrentUser) -> Balance:
    """What can be spent, what is reserved, what was spent, and what is owed."""
    balance, settled_credits = await queries.find_balance(dependencies.engine, user.user_id)
    return Balance(
        available_credits=0 if balance is None else balance.available_credits,
        reserved_credits=0 if balance is None else balance.reserved_credits,
        settled_credits=settled_credits,
        receivable_credits=0 if balance is None else balance.receivable_credits,
        updated_at=None if balance is None else balance.updated_at,
    )


@router.get("/v1/usage", operation_id="getUsage")
async def get_usage(
    dependencies: CurrentDependencies, user: CurrentUser, day_from: Day | None = None, day_to: Day | None = None
) -> Usage:
    """Orders and credits by day and model: of the last 30 days, or of at most 92 that you name, in UTC."""
    last = day_to or datetime.fromtimestamp(dependencies.clock.now(), UTC).date()
    first = day_from or last - DEFAULT_DAYS
    if not first <= last < first + MOST_DAYS:
        message = f"the last day, and at most {MOST_DAYS.days} days with it"
        raise InvalidRequest(errors=named_errors([("day_from", "out_of_range", f"is not before {message}")]))
    with dependencies.admission.reading_history(user.user_id):
        records = await queries.list_usage(dependencies.engine, user.user_id, first, last)
    return Usage(day_from=first, day_to=last, items=[UsageEntry(**asdict(record)) for record in records])


@router.get("/v1/ledger", operation_id="getLedger", response_model=LedgerPage, responses=STATEMENT)
async def get_ledger(
    dependencies: CurrentDependencies,
    user: CurrentUser,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    format: Annotated[Literal["json", "csv"] | None, Query(description="Or send 'Accept: text/csv'.")] = None,
    before: Annotated[
        LineNumber | None,
        Query(description="Lines below this number; from next_before."),
    ] = None,
    limit: Limit = 50,
) -> LedgerPage | StreamingResponse:
    """Every movement of the user's credits: JSON pages, newest first, or the whole statement as CSV, oldest first."""
    if format == "csv" or (format is None and "text/csv" in accept):
        headers = {"Content-Disposition": 'attachment; filename="statement.csv"', "Cache-Control": "no-store"}
        place = contextlib.ExitStack()
        place.enter_context(dependencies.admission.reading_history(user.user_id))
        return StreamedAnswer(_csv(dependencies.engine, user.user_id), place, "text/csv", headers)
    lines = await queries.list_lines(dependencies.engine, user.user_id, before, limit + 1)
    page = lines[:limit]
    following = page[-1].line_number if len(lines) > limit else None
    return LedgerPage(items=[represent_line(line) for line in page], next_before=following)


@router.get(
    "/v1/ledger/{line_number}/receipt",
    operation_id="getLedgerReceipt",
    responses=refusals(LedgerLineNotFound, LineNotSealed, ReceiptsUnavailable, ReceiptNotProvable),
)
async def get_ledger_receipt(
    dependencies: CurrentDependencies, user: CurrentUser, line_number: LineNumber
) -> LedgerReceipt:
    """A proof that a line stands in the sealed ledger, to be checked without us."""
    receipt = await receipts.get_receipt(dependencies, user.user_id, line_number)
    return LedgerReceipt(
        line_number=receipt.line_number,
        head=represent_head(receipt.head),
        postings=[represent_posting(proof) for proof in receipt.postings],
    )


@router.get("/v1/ledger/heads", operation_id="listLedgerHeads")
async def list_ledger_heads(
    dependencies: CurrentDependencies,
    _user: CurrentUser,
    before: Annotated[TreeSize | None, Query(description="Shorter ones than this; from next_before.")] = None,
    limit: Limit = 50,
) -> LedgerHeadPage:
    """The published heads of the ledger of all users, newest first. Keep one: it cannot be taken back."""
    heads = await queries.list_heads(dependencies.engine, before, limit + 1)
    page = heads[:limit]
    following = page[-1].tree_size if len(heads) > limit else None
    return LedgerHeadPage(items=[represent_head(head) for head in page], next_before=following)


@router.get(
    "/v1/ledger/heads/{tree_size}/consistency",
    operation_id="getLedgerConsistency",
    responses=refusals(LedgerHeadNotFound, ReceiptsUnavailable, ReceiptNotProvable),
)
async def get_ledger_consistency(
    dependencies: CurrentDependencies, _user: CurrentUser, tree_size: TreeSize
) -> LedgerConsistency:
    """A proof that the newest head continues this one: nothing that was sealed then has changed or gone."""
    proof = await receipts.get_consistency(dependencies, tree_size)
    return LedgerConsistency(
        first=represent_head(proof.first),
        second=represent_head(proof.second),
        path=[hash_.hex() for hash_ in proof.path],
    )


async def _csv(engine: AsyncEngine, user_id: UUID) -> AsyncIterator[str]:
    """The statement page by page, so that no connection is occupied while a slow client reads."""
    names = list(LedgerLine.model_fields)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(names)
    last = 0
    while True:
        lines = await queries.list_lines(engine, user_id, last, CSV_PAGE, oldest_first=True)
        for line in lines:
            cells = represent_line(line).model_dump(mode="json")
            writer.writerow([_cell(cells[name]) for name in names])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        if len(lines) < CSV_PAGE:
            return
        last = lines[-1].line_number


def _cell(value: object) -> object:
    """A note may hold any text: a spreadsheet must not read it as a formula."""
    if isinstance(value, str) and (value[:1] in _CONTROLS or value.lstrip()[:1] in _FORMULAS):
        return f"'{value}"
    return "" if value is None else value
