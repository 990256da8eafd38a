"""Buying a credit pack: the payment is begun here and driven by payments."""

import asyncio
import re
from dataclasses import dataclass, replace
from uuid import UUID

import structlog

from contracts.payments import CreatePayment, PaymentChanged, PaymentRefusalCode, PaymentRefused
from gateway import queries, repository
from gateway.dependencies import Dependencies
from gateway.domain import LOCALHOST, PurchaseRequest, User, origin_of, with_payment
from gateway.errors import IdempotencyKeyReused, PackNotFound, PaymentNotFound, PaymentRefusedProblem
from gateway.limits import check_write
from gateway.live_events import Reply, wait_for_reply
from gateway.records import NewPayment, PaymentRecord, PaymentRequestRecord
from gateway.settings import Settings
from messaging.database import single_statements
from messaging.ids import new_id
from service_runtime.problems import InvalidRequest, named_errors


@dataclass(frozen=True, slots=True)
class BegunPayment:
    """A purchase that was begun. ``replayed`` if the key was used before."""

    payment: PaymentRecord
    replayed: bool


async def begin_payment(dependencies: Dependencies, user: User, key: str, request: PurchaseRequest) -> BegunPayment:
    """Begin to buy a pack, once for this key, and wait a little for the provider's checkout.

    Raises ``PackNotFound``, ``IdempotencyKeyReused``, ``InvalidRequest``, ``RateLimited`` and
    ``PaymentRefusedProblem``.
    """
    # This comes first: a repeated request gets its first result, even if the pack is no longer sold.
    earlier = await _find_request(dependencies, user, key)
    if earlier is None:
        payment_id = new_id()
        structlog.contextvars.bind_contextvars(correlation_id=str(payment_id))
        with dependencies.live_events.expecting(payment_id) as reply:
            earlier = await _record(dependencies, user, key, request, payment_id)
            if earlier is None:
                payment = await _await_checkout(dependencies, user, key, payment_id, reply)
                return BegunPayment(payment, replayed=False)
    if earlier.request_hash != request.digest:
        raise IdempotencyKeyReused(payment_id=str(earlier.payment_id))
    with dependencies.live_events.expecting(earlier.payment_id) as reply:
        payment = await _await_checkout(dependencies, user, key, earlier.payment_id, reply)
        return BegunPayment(payment, replayed=True)


async def get_payment(dependencies: Dependencies, user: User, payment_id: UUID) -> PaymentRecord:
    """One payment of this user. Raises ``PaymentNotFound``."""
    payment = await queries.find_payment(dependencies.engine, user.user_id, payment_id)
    if payment is None:
        raise PaymentNotFound
    return payment


async def _record(
    dependencies: Dependencies, user: User, key: str, request: PurchaseRequest, payment_id: UUID
) -> PaymentRequestRecord | None:
    """The one transaction of a purchase; returns the request that used the key, if there is one."""
    pack = dependencies.packs.get(request.pack_id)
    if pack is None:
        raise PackNotFound("GET /v1/credit-packs lists every pack")
    if request.return_url is not None and not _is_ours(dependencies.settings, request.return_url):
        message = "is not an address of an origin that may call this API"
        raise InvalidRequest(errors=named_errors([("return_url", "foreign_origin", message)]))
    await check_write(dependencies, user)
    async with dependencies.transactions.begin() as tx:
        requested_at = await repository.add_payment_request(
            tx.connection, payment_id, user.user_id, key, request.digest
        )
        if requested_at is None:
            return await repository.find_payment_request(tx.connection, user.user_id, key)
        payment = NewPayment(
            payment_id=payment_id,
            user_id=user.user_id,
            provider=request.provider,
            pack_id=pack.id,
            price_cents=pack.price_cents,
            currency=pack.currency,
            credits=pack.credits,
            bonus_credits=pack.bonus_credits,
        )
        await repository.add_payment(tx.connection, payment)
        command = CreatePayment(
            payment_id=payment_id,
            user_id=user.user_id,
            provider=request.provider,
            pack_id=pack.id,
            return_url=None if request.return_url is None else with_payment(request.return_url, payment_id),
            requested_at=requested_at,
        )
        tx.publish(command, correlation_id=payment_id)
    return None


def _is_ours(settings: Settings, return_url: str) -> bool:
    """Whether the page belongs to a frontend: nobody else is sent a user who has just paid."""
    origin = origin_of(return_url)
    return origin is not None and (
        origin in settings.cors_origins or (settings.cors_localhost and re.fullmatch(LOCALHOST, origin) is not None)
    )


async def _await_checkout(
    dependencies: Dependencies, user: User, key: str, payment_id: UUID, reply: asyncio.Future[Reply]
) -> PaymentRecord:
    async def is_answered() -> bool:
        return (await get_payment(dependencies, user, payment_id)).status != "created"

    if not await is_answered():
        await wait_for_reply(reply, dependencies.settings.checkout_wait_seconds, is_answered)
    heard = reply.result() if reply.done() else None
    if isinstance(heard, PaymentRefused):
        raise _refusal(heard.code, heard.detail, payment_id)
    payment = await get_payment(dependencies, user, payment_id)
    if payment.status == "refused":
        request = await _find_request(dependencies, user, key)
        assert request is not None, "the request was committed"
        assert request.refusal_code is not None, "a refusal has a code"
        raise _refusal(request.refusal_code, request.refusal_detail, payment_id)
    if isinstance(heard, PaymentChanged) and heard.payment.version > payment.version:
        # The live message may come before the read model: it has what the user waits for.
        newer = heard.payment
        return replace(payment, status=newer.status, checkout_url=newer.checkout_url, expires_at=newer.expires_at)
    return payment


def _refusal(reason: PaymentRefusalCode, detail: str | None, payment_id: UUID) -> PaymentRefusedProblem:
    return PaymentRefusedProblem(detail, reason=reason, payment_id=str(payment_id))


async def _find_request(dependencies: Dependencies, user: User, key: str) -> PaymentRequestRecord | None:
    async with single_statements(dependencies.engine) as connection:
        return await repository.find_payment_request(connection, user.user_id, key)
