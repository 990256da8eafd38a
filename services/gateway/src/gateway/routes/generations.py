"""Quoting, ordering, listing, watching, cancelling and deleting generations."""

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response

from contracts.values import Kind
from gateway import cancelling, deleting, ordering, queries
from gateway.dependencies import Dependencies
from gateway.domain import Cursor, OrderRequest, User, download_name, split_page
from gateway.errors import (
    AccountFrozen,
    CancelAllowanceUsed,
    GenerationDeleted,
    GenerationEnded,
    GenerationNotFound,
    GenerationUnderWay,
    IdempotencyKeyMissing,
    IdempotencyKeyReused,
    InsufficientCredits,
    InvalidCursor,
    InvalidModelParameters,
    ModelNotFound,
    PriceAboveLimit,
    TooManyOpenGenerations,
)
from gateway.json_bodies import JsonRoute
from gateway.metrics import measured_acceptance
from gateway.openapi import Responses, refusals
from gateway.ordering import PlacedOrder
from gateway.queries import GenerationFilter
from gateway.records import GenerationRecord, VariantRecord
from gateway.representations import (
    Generation,
    GenerationPage,
    Limit,
    Moment,
    Quote,
    QuoteLine,
    QuoteTerms,
    Timeline,
    represent_generation,
    represent_timeline,
)
from gateway.request_bodies import GenerationRequest, QuoteRequest, RepeatRequest
from gateway.routes.request_context import CurrentDependencies, CurrentUser, IdempotencyKey, PageCursor
from gateway.statuses import GenerationStatus

router = APIRouter(tags=["generations"], route_class=JsonRoute)

PLACED: Responses = {
    200: {"description": "The key was used before, and this is the generation it ordered.", "model": Generation},
    202: {"description": "Written down; billing has not answered yet. Watch it.", "model": Generation},
}
ORDER_PROBLEMS = (
    IdempotencyKeyMissing,
    InsufficientCredits,
    AccountFrozen,
    ModelNotFound,
    PriceAboveLimit,
    IdempotencyKeyReused,
    InvalidModelParameters,
    TooManyOpenGenerations,
    GenerationDeleted,
)
UNPRICED = refusals(ModelNotFound, InvalidModelParameters)
NOT_FOUND = refusals(GenerationNotFound, GenerationDeleted)
Variants = Annotated[Literal["this", "all"], Query(description="`all`: with every other variant of its order.")]


@router.post("/v1/quotes", operation_id="createQuote", responses=UNPRICED)
async def create_quote(body: QuoteRequest, dependencies: CurrentDependencies, user: CurrentUser) -> Quote:
    """Price parameters without ordering anything. Texts and files may still be missing: `missing` names them."""
    dependencies.admission.take_quote(user.user_id)
    model, parameters = ordering.complete_parameters(dependencies, body.model_id, body.parameters, unfinished=True)
    ordering.check_count(model, body.count)
    quote = model.quote(parameters)
    lines = [QuoteLine(label=line.label, credits=line.credits) for line in quote.lines]
    terms = QuoteTerms(running_cancels_per_day=dependencies.settings.running_cancels_per_day[user.lane])
    return Quote(
        model_id=model.id,
        price_credits=quote.price_credits,
        count=body.count,
        total_price_credits=quote.price_credits * body.count,
        lines=lines,
        parameters=parameters,
        missing=sorted(model.missing_texts(parameters)),
        terms=terms,
    )


@router.post(
    "/v1/generations",
    operation_id="createGeneration",
    status_code=201,
    responses=PLACED | refusals(*ORDER_PROBLEMS),
)
async def create_generation(
    user: CurrentUser,
    dependencies: CurrentDependencies,
    key: IdempotencyKey,
    body: GenerationRequest,
    response: Response,
) -> Generation:
    """Order a clip or a picture, or several variants of one. 201: the credits are reserved. 402: there are too few.

    With a `count` above 1 each variant is a generation of its own: with its own status, file, charge and end. The
    answer is the first one, and its `variants` name them all.
    """
    request = OrderRequest(
        body.model_id, body.parameters, body.max_price_credits, body.start_within_seconds, body.count
    )
    with measured_acceptance():
        placed = await ordering.place_order(dependencies, user, key, request)
    return await _answer_order(dependencies, user, placed, response)


@router.post(
    "/v1/generations/{generation_id}/repeat",
    operation_id="repeatGeneration",
    status_code=201,
    responses=PLACED | refusals(*ORDER_PROBLEMS, GenerationNotFound),
)
async def repeat_generation(
    generation_id: UUID,
    user: CurrentUser,
    dependencies: CurrentDependencies,
    key: IdempotencyKey,
    body: RepeatRequest,
    response: Response,
) -> Generation:
    """Order the same again, at today's price, with the same uploads. It is a new order, and answered like one.

    An upload that is not kept any more is `invalid_parameters` with `upload_expired`; a model that is no longer
    offered is `model_not_found`.
    """
    with measured_acceptance():
        placed = await ordering.repeat_order(
            dependencies, user, key, generation_id, body.parameters, body.max_price_credits, body.count
        )
    return await _answer_order(dependencies, user, placed, response)


@router.get("/v1/generations", operation_id="listGenerations", responses=refusals(InvalidCursor))
async def list_generations(
    dependencies: CurrentDependencies,
    user: CurrentUser,
    cursor: PageCursor,
    status: GenerationStatus | None = None,
    kind: Kind | None = None,
    model_id: Annotated[str | None, Query(max_length=64, pattern=r"^[\w.-]+$")] = None,
    requested_from: Moment | None = None,
    requested_to: Moment | None = None,
    variant_of: UUID | None = None,
    limit: Limit = 20,
) -> GenerationPage:
    """The user's generations, newest first."""
    wanted = GenerationFilter(status, kind, model_id, requested_from, requested_to, variant_of)
    reading = dependencies.admission.reading_history(user.user_id) if wanted.reads_history else nullcontext()
    with reading:
        records = await queries.list_generations(dependencies.engine, user.user_id, wanted, cursor, limit + 1)
    page, following = split_page(records, limit, lambda record: Cursor(record.requested_at, record.generation_id))
    return GenerationPage(items=await _represent_all(dependencies, user, page), next_cursor=following)


@router.get("/v1/generations/{generation_id}", operation_id="getGeneration", responses=NOT_FOUND)
async def get_generation(generation_id: UUID, dependencies: CurrentDependencies, user: CurrentUser) -> Generation:
    """One generation, with fresh links to its file once it is completed."""
    return await _represent(dependencies, user, await ordering.get_generation(dependencies, user, generation_id))


@router.get("/v1/generations/{generation_id}/timeline", operation_id="getGenerationTimeline", responses=NOT_FOUND)
async def get_generation_timeline(
    generation_id: UUID, dependencies: CurrentDependencies, user: CurrentUser
) -> Timeline:
    """Everything that happened to one generation, in order."""
    generation = await ordering.get_generation(dependencies, user, generation_id)
    history = await queries.list_timeline(dependencies.engine, user.user_id, generation_id)
    return represent_timeline(history, generation.requested_at)


@router.post(
    "/v1/generations/{generation_id}/cancel",
    operation_id="cancelGeneration",
    status_code=202,
    responses=refusals(GenerationNotFound, GenerationDeleted, GenerationEnded, CancelAllowanceUsed),
)
async def cancel_generation(
    generation_id: UUID, dependencies: CurrentDependencies, user: CurrentUser, variants: Variants = "this"
) -> Generation:
    """Ask for it to be stopped. It wins until the file is being checked; the credits come back with the next event.

    Work that waits can always be cancelled. Of work that a worker has, the plan allows so many cancels in any 24 hours
    (`running_cancels_per_day` of a quote): beyond that it runs to its end, and is charged. A cancel that was accepted
    for waiting work then stops nothing, if a worker takes the work before the cancel arrives. With `variants=all` each
    variant of its order is stopped that can be.
    """
    request = cancelling.request_cancellation if variants == "this" else cancelling.request_cancellation_of_all
    return await _represent(dependencies, user, await request(dependencies, user, generation_id))


@router.delete(
    "/v1/generations/{generation_id}",
    operation_id="deleteGeneration",
    status_code=204,
    responses=refusals(GenerationNotFound, GenerationUnderWay),
)
async def delete_generation(
    generation_id: UUID, dependencies: CurrentDependencies, user: CurrentUser, variants: Variants = "this"
) -> None:
    """Delete one that has ended: it leaves every list, and its files leave the library. Its charge stays.

    With `variants=all` all variants of its order are deleted, or none, if one has not ended.
    """
    delete = deleting.delete_generation if variants == "this" else deleting.delete_order
    await delete(dependencies, user, generation_id)


async def _answer_order(dependencies: Dependencies, user: User, placed: PlacedOrder, response: Response) -> Generation:
    response.headers["Location"] = f"/v1/generations/{placed.generation.generation_id}"
    if placed.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    response.status_code = 202 if not placed.reserved else 200 if placed.replayed else 201
    return await _represent(dependencies, user, placed.generation)


async def _represent(dependencies: Dependencies, user: User, record: GenerationRecord) -> Generation:
    (represented,) = await _represent_all(dependencies, user, [record])
    return represented


async def _represent_all(
    dependencies: Dependencies, user: User, records: Sequence[GenerationRecord]
) -> list[Generation]:
    orders = {record.variant.order_id for record in records if record.variant is not None}
    variants = await queries.list_variants(dependencies.engine, user.user_id, orders)
    return [
        _represent_one(dependencies, user, record, variants.get(record.variant.order_id, ()) if record.variant else ())
        for record in records
    ]


def _represent_one(
    dependencies: Dependencies, user: User, record: GenerationRecord, variants: Sequence[VariantRecord]
) -> Generation:
    """The file of a generation is shown once it is completed, and what it may expect until then."""
    if record.file is None or record.status != "completed":
        now = datetime.fromtimestamp(dependencies.clock.now(), UTC)
        estimates = dependencies.live_events.estimates
        estimate = estimates.find(user.user_id, record.generation_id, record.status, now)
        return represent_generation(record, variants, estimate=estimate)
    name = download_name(record.model_id, record.requested_at, record.generation_id)
    return represent_generation(record, variants, dependencies.file_urls.download(record.file, record.previews, name))
