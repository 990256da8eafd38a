"""Buying credits: payments are begun here and driven by the payments service."""

import asyncio
from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Response

from contracts.payments import CreatePayment, PaymentRefused
from gateway import ordering, queries, repository
from gateway.dependencies import CurrentParts, CurrentUser, IdempotencyKey, PageCursor, Parts
from gateway.domain import Cursor, User, encode_cursor, request_hash
from gateway.errors import (
    IdempotencyKeyMissing,
    IdempotencyKeyReused,
    InvalidCursor,
    PackNotFound,
    PaymentNotFound,
    PaymentRefusedProblem,
    RateLimited,
)
from gateway.openapi import Responses, refusals
from gateway.representations import (
    Limit,
    PaymentPage,
    PaymentRequest,
    PaymentShown,
    Timeline,
    show_payment,
    show_timeline,
)
from gateway.tables import payment_requests
from messaging.database import single_statements
from messaging.ids import new_id

router = APIRouter(tags=["payments"])

BEGUN: Responses = {
    200: {"description": "The key was known, and this is what came of it.", "model": PaymentShown},
    202: {"description": "Written down; the provider has not answered yet. Watch it.", "model": PaymentShown},
    **refusals(IdempotencyKeyMissing, PackNotFound, PaymentRefusedProblem, IdempotencyKeyReused, RateLimited),
}
NOT_FOUND = refusals(PaymentNotFound)


@router.post("/v1/payments", operation_id="createPayment", status_code=201, responses=BEGUN)
async def create_payment(
    user: CurrentUser, parts: CurrentParts, key: IdempotencyKey, asked: PaymentRequest, response: Response
) -> PaymentShown:
    """Begin to buy a pack. Send the user to ``checkout_url``; the credits come by themselves."""
    digest = request_hash(asked.model_dump())
    # First of all: a repeated request gets its first result, even if the pack is no longer sold.
    held = await _held(parts, user, key)
    if held is None:
        payment_id = new_id()
        with parts.news.expecting(payment_id) as verdict:
            held = await _write_down(parts, user, key, asked, payment_id, digest)
            if held is None:
                return await _answer(parts, user, key, payment_id, verdict, response, status_code=201)
    if bytes(held.request_hash) != digest:
        raise IdempotencyKeyReused(payment_id=str(held.payment_id))
    response.headers["Idempotent-Replayed"] = "true"
    with parts.news.expecting(held.payment_id) as verdict:
        return await _answer(parts, user, key, held.payment_id, verdict, response, status_code=200)


async def _write_down(
    parts: Parts, user: User, key: str, asked: PaymentRequest, payment_id: UUID, digest: bytes
) -> Any | None:
    """The one transaction of a purchase; returns the request that holds the key, if it was known."""
    pack = parts.packs.get(asked.pack_id)
    if pack is None:
        raise PackNotFound("GET /v1/credit-packs lists every pack")
    request = {"payment_id": payment_id, "user_id": user.user_id, "idempotency_key": key, "request_hash": digest}
    payment = {
        "payment_id": payment_id,
        "user_id": user.user_id,
        "provider": asked.provider,
        "pack_id": pack.id,
        "price_cents": pack.price_cents,
        "currency": pack.currency,
        "credits": pack.credits,
        "bonus_credits": pack.bonus_credits,
    }
    await ordering.check_write(parts, user)
    async with parts.transactions.begin() as tx:
        claimed = await repository.add_request(tx.connection, payment_requests, request)
        if not isinstance(claimed, datetime):
            return claimed
        await repository.add_payment(tx.connection, payment)
        command = CreatePayment(
            payment_id=payment_id,
            user_id=user.user_id,
            provider=asked.provider,
            pack_id=pack.id,
            requested_at=claimed,
        )
        tx.publish(command, correlation_id=payment_id)
    return None


async def _answer(
    parts: Parts,
    user: User,
    key: str,
    payment_id: UUID,
    verdict: asyncio.Future[Any],
    response: Response,
    status_code: int,
) -> PaymentShown:
    row = await _row(parts, user, payment_id)
    if row.status == "created":
        await ordering.wait_for(
            verdict, parts.settings.checkout_wait_seconds, lambda: _is_answered(parts, user, payment_id)
        )
    said = verdict.result() if verdict.done() else None
    if isinstance(said, PaymentRefused):
        raise _refusal(said.code, said.detail, payment_id)
    row = await _row(parts, user, payment_id)
    if row.status == "refused":
        held = await _held(parts, user, key)
        assert held is not None, "the request was committed"
        raise _refusal(held.refusal_code, held.refusal_detail, payment_id)
    shown = show_payment(row)
    if said is not None and said.payment.version > row.version:
        # The event may be here before the read model: what the user waits for is in it.
        payment = said.payment
        news = {"status": payment.status, "checkout_url": payment.checkout_url, "expires_at": payment.expires_at}
        shown = shown.model_copy(update=news)
    response.status_code = 202 if shown.status == "created" else status_code
    response.headers["Location"] = f"/v1/payments/{payment_id}"
    return shown


async def _is_answered(parts: Parts, user: User, payment_id: UUID) -> bool:
    row = await _row(parts, user, payment_id)
    return bool(row.status != "created")


def _refusal(reason: str, detail: str, payment_id: UUID) -> PaymentRefusedProblem:
    return PaymentRefusedProblem(detail, reason=reason, payment_id=str(payment_id))


async def _held(parts: Parts, user: User, key: str) -> Any | None:
    async with single_statements(parts.engine) as connection:
        return await repository.find_request(connection, payment_requests, user.user_id, key)


async def _row(parts: Parts, user: User, payment_id: UUID) -> Any:
    row = await queries.find_payment(parts.engine, user.user_id, payment_id)
    if row is None:
        raise PaymentNotFound
    return row


@router.get("/v1/payments", operation_id="listPayments", responses=refusals(InvalidCursor))
async def list_payments(parts: CurrentParts, user: CurrentUser, cursor: PageCursor, limit: Limit = 20) -> PaymentPage:
    """The user's payments, newest first."""
    rows = await queries.list_payments(parts.engine, user.user_id, cursor, limit + 1)
    page = rows[:limit]
    following = encode_cursor(Cursor(page[-1].created_at, page[-1].payment_id)) if len(rows) > limit else None
    return PaymentPage(items=[show_payment(row) for row in page], next_cursor=following)


@router.get("/v1/payments/{payment_id}", operation_id="getPayment", responses=NOT_FOUND)
async def get_payment(payment_id: UUID, parts: CurrentParts, user: CurrentUser) -> PaymentShown:
    """One payment."""
    return show_payment(await _row(parts, user, payment_id))


@router.get("/v1/payments/{payment_id}/timeline", operation_id="getPaymentTimeline", responses=NOT_FOUND)
async def get_payment_timeline(payment_id: UUID, parts: CurrentParts, user: CurrentUser) -> Timeline:
    """Everything that happened to one payment, in order."""
    await _row(parts, user, payment_id)
    return show_timeline(await queries.list_timeline(parts.engine, user.user_id, payment_id))
