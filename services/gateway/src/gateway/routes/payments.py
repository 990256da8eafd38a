"""Buying credits: payments are begun here and driven by the payments service."""

from uuid import UUID

from fastapi import APIRouter, Response

from gateway import purchasing, queries
from gateway.domain import Cursor, PurchaseRequest, split_page
from gateway.errors import (
    IdempotencyKeyMissing,
    IdempotencyKeyReused,
    InvalidCursor,
    PackNotFound,
    PaymentNotFound,
    PaymentRefusedProblem,
)
from gateway.json_bodies import JsonRoute
from gateway.openapi import Responses, refusals
from gateway.representations import Limit, Payment, PaymentPage, Timeline, represent_payment, represent_timeline
from gateway.request_bodies import PaymentRequest
from gateway.routes.request_context import CurrentDependencies, CurrentUser, IdempotencyKey, PageCursor

router = APIRouter(tags=["payments"], route_class=JsonRoute)

BEGUN: Responses = {
    200: {"description": "The key was used before, and this is the payment it began.", "model": Payment},
    202: {"description": "Written down; the provider has not answered yet. Watch it.", "model": Payment},
    **refusals(IdempotencyKeyMissing, PackNotFound, PaymentRefusedProblem, IdempotencyKeyReused),
}
NOT_FOUND = refusals(PaymentNotFound)


@router.post("/v1/payments", operation_id="createPayment", status_code=201, responses=BEGUN)
async def create_payment(
    user: CurrentUser,
    dependencies: CurrentDependencies,
    key: IdempotencyKey,
    body: PaymentRequest,
    response: Response,
) -> Payment:
    """Begin to buy a pack. Send the user to ``checkout_url``; the credits come by themselves."""
    request = PurchaseRequest(body.pack_id, body.provider, body.return_url)
    begun = await purchasing.begin_payment(dependencies, user, key, request)
    response.headers["Location"] = f"/v1/payments/{begun.payment.payment_id}"
    if begun.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    if begun.payment.status == "created":
        response.status_code = 202
    else:
        response.status_code = 200 if begun.replayed else 201
    return represent_payment(begun.payment)


@router.get("/v1/payments", operation_id="listPayments", responses=refusals(InvalidCursor))
async def list_payments(
    dependencies: CurrentDependencies, user: CurrentUser, cursor: PageCursor, limit: Limit = 20
) -> PaymentPage:
    """The user's payments, newest first."""
    records = await queries.list_payments(dependencies.engine, user.user_id, cursor, limit + 1)
    page, following = split_page(records, limit, lambda record: Cursor(record.created_at, record.payment_id))
    return PaymentPage(items=[represent_payment(record) for record in page], next_cursor=following)


@router.get("/v1/payments/{payment_id}", operation_id="getPayment", responses=NOT_FOUND)
async def get_payment(payment_id: UUID, dependencies: CurrentDependencies, user: CurrentUser) -> Payment:
    """One payment."""
    return represent_payment(await purchasing.get_payment(dependencies, user, payment_id))


@router.get("/v1/payments/{payment_id}/timeline", operation_id="getPaymentTimeline", responses=NOT_FOUND)
async def get_payment_timeline(payment_id: UUID, dependencies: CurrentDependencies, user: CurrentUser) -> Timeline:
    """Everything that happened to one payment, in order."""
    await purchasing.get_payment(dependencies, user, payment_id)
    return represent_timeline(await queries.list_timeline(dependencies.engine, user.user_id, payment_id))
