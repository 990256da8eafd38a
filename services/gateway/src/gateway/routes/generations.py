"""Ordering, listing, watching and cancelling generations."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response

from contracts.generation import CancelGeneration
from gateway import ordering, queries, repository
from gateway.dependencies import CurrentParts, CurrentUser, IdempotencyKey, PageCursor
from gateway.domain import TERMINAL, Cursor, encode_cursor
from gateway.errors import (
    AccountFrozen,
    GenerationEnded,
    GenerationNotFound,
    IdempotencyKeyMissing,
    IdempotencyKeyReused,
    InsufficientCredits,
    InvalidCursor,
    InvalidModelParameters,
    ModelNotFound,
    PriceAboveLimit,
    RateLimited,
    TooManyOpenGenerations,
)
from gateway.openapi import Responses, refusals
from gateway.queries import GenerationFilter
from gateway.representations import (
    GenerationPage,
    GenerationRequest,
    GenerationShown,
    GenerationStatus,
    Limit,
    Moment,
    QuoteLineShown,
    QuoteRequest,
    QuoteShown,
    Timeline,
    TimelineEntry,
    show_generation,
    show_timeline,
)

router = APIRouter(tags=["generations"])

TAKEN: Responses = {
    200: {"description": "The key was known, and this is what came of it.", "model": GenerationShown},
    202: {"description": "Written down; billing has not answered yet. Watch it.", "model": GenerationShown},
    **refusals(
        IdempotencyKeyMissing,
        InsufficientCredits,
        AccountFrozen,
        ModelNotFound,
        PriceAboveLimit,
        IdempotencyKeyReused,
        InvalidModelParameters,
        RateLimited,
        TooManyOpenGenerations,
    ),
}
UNPRICED = refusals(ModelNotFound, InvalidModelParameters)
NOT_FOUND = refusals(GenerationNotFound)


@router.post("/v1/quotes", operation_id="createQuote", responses=UNPRICED)
async def create_quote(asked: QuoteRequest, parts: CurrentParts, _: CurrentUser) -> QuoteShown:
    """Price parameters without ordering anything."""
    model, parameters = ordering.completed(parts, asked.model_id, asked.parameters)
    quote = model.quote(parameters)
    lines = [QuoteLineShown(label=line.label, credits=line.credits) for line in quote.lines]
    return QuoteShown(model_id=model.id, price_credits=quote.price_credits, lines=lines, parameters=parameters)


@router.post("/v1/generations", operation_id="createGeneration", status_code=201, responses=TAKEN)
async def create_generation(
    user: CurrentUser, parts: CurrentParts, key: IdempotencyKey, asked: GenerationRequest, response: Response
) -> GenerationShown:
    """Order a clip or a picture. 201: the credits are reserved. 402: there are too few."""
    taken = await ordering.take(parts, user, key, asked)
    response.headers["Location"] = f"/v1/generations/{taken.row.generation_id}"
    if taken.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    response.status_code = 202 if not taken.reserved else 200 if taken.replayed else 201
    return show_generation(taken.row, parts.download_of(taken.row))


@router.get("/v1/generations", operation_id="listGenerations", responses=refusals(InvalidCursor))
async def list_generations(
    parts: CurrentParts,
    user: CurrentUser,
    cursor: PageCursor,
    status: GenerationStatus | None = None,
    kind: Literal["video", "image"] | None = None,
    model_id: Annotated[str | None, Query(max_length=64, pattern=r"^[\w.-]+$")] = None,
    requested_from: Moment | None = None,
    requested_to: Moment | None = None,
    limit: Limit = 20,
) -> GenerationPage:
    """The user's generations, newest first."""
    wanted = GenerationFilter(status, kind, model_id, requested_from, requested_to)
    rows = await queries.list_generations(parts.engine, user.user_id, wanted, cursor, limit + 1)
    page = rows[:limit]
    following = encode_cursor(Cursor(page[-1].requested_at, page[-1].generation_id)) if len(rows) > limit else None
    shown = [show_generation(row, parts.download_of(row)) for row in page]
    return GenerationPage(items=shown, next_cursor=following)


@router.get("/v1/generations/{generation_id}", operation_id="getGeneration", responses=NOT_FOUND)
async def get_generation(generation_id: UUID, parts: CurrentParts, user: CurrentUser) -> GenerationShown:
    """One generation, with fresh links to its file once it is completed."""
    row = await queries.find_generation(parts.engine, user.user_id, generation_id)
    if row is None:
        raise GenerationNotFound
    return show_generation(row, parts.download_of(row))


@router.get("/v1/generations/{generation_id}/timeline", operation_id="getGenerationTimeline", responses=NOT_FOUND)
async def get_timeline(generation_id: UUID, parts: CurrentParts, user: CurrentUser) -> Timeline:
    """Everything that happened to one generation, in order."""
    row = await queries.find_generation(parts.engine, user.user_id, generation_id)
    if row is None:
        raise GenerationNotFound
    timeline = show_timeline(await queries.list_timeline(parts.engine, user.user_id, generation_id))
    first = TimelineEntry(at=row.requested_at, name="requested", detail={}, since_previous_ms=None)
    if timeline.items:
        passed = (timeline.items[0].at - first.at).total_seconds() * 1000
        timeline.items[0] = timeline.items[0].model_copy(update={"since_previous_ms": passed})
    return Timeline(items=[first, *timeline.items])


@router.post(
    "/v1/generations/{generation_id}/cancel",
    operation_id="cancelGeneration",
    status_code=202,
    responses=refusals(GenerationNotFound, GenerationEnded, RateLimited),
)
async def cancel_generation(generation_id: UUID, parts: CurrentParts, user: CurrentUser) -> GenerationShown:
    """Ask for it to be stopped. It wins until the file is being checked; the credits come back with the next event."""
    row = await queries.find_generation(parts.engine, user.user_id, generation_id)
    if row is None:
        raise GenerationNotFound
    if row.status in TERMINAL:
        raise GenerationEnded(f"the generation is {row.status}", status_of_generation=row.status)
    await ordering.check_write(parts, user)
    async with parts.transactions.begin() as tx:
        now = await repository.get_now(tx.connection)
        command = CancelGeneration(generation_id=generation_id, user_id=user.user_id, requested_at=now)
        tx.publish(command, correlation_id=generation_id)
    return show_generation(row, None)
