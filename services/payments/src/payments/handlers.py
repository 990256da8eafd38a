"""What payments does: one function for each command, reaction and outcome of a call to a provider."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from catalogue.credit_packs import CreditPack
from contracts.billing import ClawBackCredits, CreditsClawedBack, CreditsGranted, GrantCredits
from contracts.payments import CreatePayment, PaymentChanged, PaymentRefused, Provider
from messaging.ids import derived_id, new_id
from messaging.received import Received
from messaging.transaction import Transaction
from payments import repository
from payments.domain import TAKING, Movement, Review, Snapshot, advance
from payments.providers.interface import Checkout, ProviderEvent
from payments.repository import Claim

EARLY_FRAUD_WARNING: Final = "radar.early_fraud_warning.created"

MOVEMENT_NAMESPACE: Final = UUID("5b3f8a1e-7f0c-4f57-9d43-2f2a6c1d9e10")
"""Grant and clawback ids are derived from payment, kind and reference under this name: the same effect, the same id."""

SOON: Final = timedelta(seconds=60)
LATER: Final = timedelta(seconds=300)
LOOKS_SOON: Final = 10
AFTER_EXPIRY: Final = timedelta(hours=1)
WATCH_EXPIRED: Final = timedelta(days=3)
EXPIRY_GRACE: Final = timedelta(minutes=10)
REFUSED_SOON: Final = timedelta(hours=1)
REFUSED_LATER: Final = timedelta(days=1)
"""How often a payment is looked up without any hint: each minute at first, then each five; an expired one hourly for
three days, because coins may still arrive. A checkout that stays open ten minutes past our own limit has expired.
A payment that its provider refuses to show is looked at after half its age again, within an hour and a day."""

CHECKOUT_REFUSED: Final = "the payment provider could not open a checkout; nothing was paid"
"""What the buyer reads. The provider's own words are in the log."""


@dataclass(frozen=True)
class Policy:
    """What may be bought here, and within which limits."""

    packs: Mapping[str, CreditPack]
    providers: frozenset[Provider]
    max_open_payments: int
    lifetime: timedelta


def create_payment(policy: Policy, wake: Callable[[], None]) -> Any:
    """Build the handler of ``CreatePayment``: write the payment down; its checkout is opened after the commit."""

    async def handle(tx: Transaction, messages: Sequence[Received[CreatePayment]]) -> None:
        await repository.lock_payers(tx.connection, [message.payload.user_id for message in messages])
        for message in messages:
            await _create(tx, message, policy)
        tx.after_commit(wake)

    return handle


async def _create(tx: Transaction, message: Received[CreatePayment], policy: Policy) -> None:
    command = message.payload
    if await repository.find_payment(tx.connection, command.payment_id) is not None:
        return
    refusal = await _refusal(tx, command, policy)
    if refusal is not None:
        tx.publish(refusal, correlation_id=command.payment_id, cause=message)
        return
    pack = policy.packs[command.pack_id]
    values = {
        "payment_id": command.payment_id,
        "user_id": command.user_id,
        "provider": command.provider,
        "pack_id": pack.id,
        "price_cents": pack.price_cents,
        "currency": pack.currency,
        "credits": pack.credits,
        "bonus_credits": pack.bonus_credits,
    }
    row = await repository.add_payment(tx.connection, values, policy.lifetime)
    if row is not None:
        _announce(tx, row, "created", row.created_at, cause=message)


async def _refusal(tx: Transaction, command: CreatePayment, policy: Policy) -> PaymentRefused | None:
    if command.pack_id not in policy.packs:
        return PaymentRefused(
            payment_id=command.payment_id,
            user_id=command.user_id,
            code="unknown_pack",
            detail=f"there is no credit pack '{command.pack_id}'",
        )
    if command.provider not in policy.providers:
        return PaymentRefused(
            payment_id=command.payment_id,
            user_id=command.user_id,
            code="provider_disabled",
            detail=f"payments by {command.provider} are not offered here",
        )
    open_payments = await repository.count_open(tx.connection, command.user_id)
    if open_payments >= policy.max_open_payments:
        return PaymentRefused(
            payment_id=command.payment_id,
            user_id=command.user_id,
            code="too_many_open_payments",
            detail=f"{open_payments} payments are open: finish one or let it expire first",
        )
    return None


async def mark_granted(tx: Transaction, messages: Sequence[Received[CreditsGranted]]) -> None:
    """Billing's ledger has these grants."""
    await _mark_posted(tx, [message.payload.grant_id for message in messages])


async def mark_clawed_back(tx: Transaction, messages: Sequence[Received[CreditsClawedBack]]) -> None:
    """Billing's ledger has these clawbacks."""
    await _mark_posted(tx, [message.payload.clawback_id for message in messages])


async def _mark_posted(tx: Transaction, movement_ids: Sequence[UUID]) -> None:
    for payment_id in await repository.mark_posted(tx.connection, movement_ids):
        await repository.resolve_reviews(tx.connection, payment_id, "unposted", "billing")


async def record_checkout(tx: Transaction, claim: Claim, checkout: Checkout) -> None:
    """The provider opened a checkout: the user can pay."""
    row = await repository.lock_claimed(tx.connection, claim)
    if row is None or row.provider_reference is not None:
        return
    changed = await repository.change_payment(
        tx.connection,
        row.payment_id,
        provider_reference=checkout.reference,
        checkout_url=checkout.url,
        status="pending",
    )
    await repository.schedule_look(tx.connection, claim, SOON)
    _announce(tx, changed, "checkout_opened", await _now(tx))


async def record_refusal(tx: Transaction, claim: Claim, reason: str) -> None:
    """The provider refuses. ``reason`` is its own text: a person reads it in a review, never the buyer.

    A checkout that it will not open ends the payment: nothing was paid, and nothing will be. A payment that it will
    not show is looked at again, ever more rarely, and stops counting as open once its time is over.
    """
    row = await repository.lock_claimed(tx.connection, claim)
    if row is None:
        return
    now = await _now(tx)
    if row.status == "created":
        row = await repository.change_payment(tx.connection, row.payment_id, status="failed", detail=CHECKOUT_REFUSED)
        _announce(tx, row, "provider_refused", now)
        await repository.schedule_look(tx.connection, claim, None)
        return
    if row.provider_reference is None:
        await open_review(tx, row.payment_id, Review("no_checkout", row.status, reason))
        await repository.schedule_look(tx.connection, claim, None)
        return
    await open_review(tx, row.payment_id, Review("look_refused", row.status, reason))
    if row.status == "pending" and row.expires_at + EXPIRY_GRACE < now:
        row = await repository.change_payment(tx.connection, row.payment_id, status="expired")
        _announce(tx, row, "look_refused", now)
    delay = min(max((now - row.created_at) / 2, REFUSED_SOON), REFUSED_LATER)
    await repository.schedule_look(tx.connection, claim, delay)


async def record_refund(tx: Transaction, ordered: sa.Row[Any], reference: str) -> None:
    """The provider took an ordered refund: the payment is looked at for what became of it."""
    await repository.lock_payment(tx.connection, ordered.payment_id)
    await repository.confirm_refund(tx.connection, ordered.refund_id, reference)
    await repository.hint_payments(tx.connection, [ordered.payment_id])


async def record_refused_refund(tx: Transaction, ordered: sa.Row[Any], reason: str) -> None:
    """The provider will not make an ordered refund: no credits are taken, and a person decides what to do instead."""
    await repository.lock_payment(tx.connection, ordered.payment_id)
    await repository.fail_refund(tx.connection, ordered.refund_id)
    review = Review("refund_refused", f"{ordered.amount_cents} cents given back", reason)
    await open_review(tx, ordered.payment_id, review, str(ordered.refund_id))


async def postpone(tx: Transaction, claim: Claim) -> None:
    """The provider gave no answer: look again, later each time, at most five minutes apart."""
    delay = min(timedelta(seconds=2 ** min(claim.row.looks, 9)), LATER)
    await repository.schedule_look(tx.connection, claim, delay)


async def record_snapshot(tx: Transaction, claim: Claim, snapshot: Snapshot) -> None:
    """Fold what the provider shows into the payment, move credits, and say what changed, all in one transaction."""
    row = await repository.lock_claimed(tx.connection, claim)
    if row is None:
        return
    now = await _now(tx)
    seen = await with_manual_refunds(tx, row, snapshot)
    if seen.state == "open" and row.expires_at + EXPIRY_GRACE < now:
        seen = replace(seen, state="expired")
    await repository.put_refunds(tx.connection, row.payment_id, row.provider, snapshot.refunds)
    await repository.put_disputes(tx.connection, row.payment_id, row.provider, snapshot.disputes)
    standing = await repository.get_standing(tx.connection, row)
    step = advance(standing, seen)
    if step.review is not None:
        await open_review(tx, row.payment_id, step.review)
    await _order_movements(tx, row, step.movements)
    for healed in ("difference", "look_refused"):
        await repository.resolve_reviews(tx.connection, row.payment_id, healed, "reconciliation")
    settled_at = row.settled_at or (now if seen.state == "paid" and step.status != "review" else None)
    fresh = {
        "status": step.status,
        "refunded_cents": step.refunded_cents,
        "paid_cents": max(seen.paid_cents, row.paid_cents),
        "charge_reference": seen.charge_reference or row.charge_reference,
        "settled_at": settled_at,
    }
    if any(getattr(row, name) != value for name, value in fresh.items()):
        row = await repository.change_payment(tx.connection, row.payment_id, **fresh)
        _announce(tx, row, step.reason, now)
    await repository.schedule_look(tx.connection, claim, _next_look(row, now))


async def with_manual_refunds(tx: Transaction, row: sa.Row[Any], snapshot: Snapshot) -> Snapshot:
    """The provider's view and what an operator paid back by hand, of which no provider knows."""
    manual = await repository.manual_refunds(tx.connection, row.payment_id)
    return replace(snapshot, refunds=(*snapshot.refunds, *manual))


async def record_resolution(tx: Transaction, row: sa.Row[Any], resolution: str) -> None:
    """A person decided what a payment that did not match is worth: the whole pack, or nothing."""
    if resolution == "credited":
        pack = [Movement("purchase", "", row.credits)]
        if row.bonus_credits:
            pack.append(Movement("bonus", "", row.bonus_credits))
        await _order_movements(tx, row, pack)
        fresh = {"status": "settled", "resolution": resolution, "settled_at": sa.func.now()}
    else:
        fresh = {"status": "failed", "resolution": resolution}
    changed = await repository.change_payment(tx.connection, row.payment_id, **fresh)
    # What was refunded or disputed while it waited has its effect now.
    await repository.hint_payments(tx.connection, [row.payment_id])
    _announce(tx, changed, f"review_{resolution}", await _now(tx))


async def _order_movements(tx: Transaction, row: sa.Row[Any], movements: Sequence[Movement]) -> None:
    identified = [(movement_id(row.payment_id, movement), movement) for movement in movements]
    fresh = await repository.add_movements(tx.connection, row.payment_id, identified)
    for identity, movement in identified:
        if identity in fresh:
            tx.publish(_command(row, identity, movement), correlation_id=row.payment_id)


def movement_id(payment_id: UUID, movement: Movement) -> UUID:
    """The id of a grant or clawback: equal effects have equal ids, wherever and whenever they are found."""
    return derived_id(MOVEMENT_NAMESPACE, f"{payment_id}/{movement.kind}/{movement.reference}")


def _command(row: sa.Row[Any], identity: UUID, movement: Movement) -> GrantCredits | ClawBackCredits:
    note = f"{row.provider} {movement.reference}".strip()
    if movement.kind in TAKING:
        return ClawBackCredits(
            clawback_id=identity,
            user_id=row.user_id,
            payment_id=row.payment_id,
            amount_credits=movement.amount_credits,
            reason=movement.kind,  # type: ignore[arg-type]
            note=note,
        )
    return GrantCredits(
        grant_id=identity,
        user_id=row.user_id,
        amount_credits=movement.amount_credits,
        reason=movement.kind,  # type: ignore[arg-type]
        actor="payments",
        payment_id=row.payment_id,
        note=note,
    )


def _next_look(row: sa.Row[Any], now: datetime) -> timedelta | None:
    if row.status in repository.OPEN_STATUSES:
        return SOON if row.looks < LOOKS_SOON else LATER
    if row.status == "expired" and now < row.expires_at + WATCH_EXPIRED:
        return AFTER_EXPIRY
    return None


async def store_event(
    tx: Transaction, provider: str, event: ProviderEvent, source: str, wake: Callable[[], None]
) -> bool:
    """Keep a provider's event once, and have its payment looked up. False if the event was known."""
    payment_id = await repository.find_payment_of(tx.connection, provider, event)
    fresh = await repository.add_event(tx.connection, provider, event, source, payment_id)
    if fresh and payment_id is not None:
        await repository.hint_payments(tx.connection, [payment_id])
        await _warn_of_fraud(tx, payment_id, event.event_type, event.event_id)
    if fresh:
        tx.after_commit(wake)
    return fresh


async def record_match(
    tx: Transaction, event: sa.Row[Any], payment_id: UUID | None, retry_in: timedelta | None
) -> None:
    """An event whose payment was not known here has been asked for at the provider."""
    known = payment_id is not None and await repository.find_payment(tx.connection, payment_id) is not None
    await repository.settle_event(tx.connection, event, payment_id if known else None, None if known else retry_in)
    if known and payment_id is not None:
        await repository.hint_payments(tx.connection, [payment_id])
        await _warn_of_fraud(tx, payment_id, event.event_type, event.event_id)


async def _warn_of_fraud(tx: Transaction, payment_id: UUID, event_type: str, event_id: str) -> None:
    if event_type == EARLY_FRAUD_WARNING:
        review = Review("early_fraud_warning", "no warning", f"event {event_id}: refund before it becomes a dispute")
        await open_review(tx, payment_id, review, event_id)


async def open_review(tx: Transaction, payment_id: UUID | None, review: Review, reference: str = "") -> None:
    """Put something before a person; seeing it again only renews it."""
    await repository.put_review(tx.connection, payment_id, new_id(), review, reference)


def _announce(
    tx: Transaction, row: sa.Row[Any], reason: str, changed_at: datetime, cause: Received[Any] | None = None
) -> None:
    message = PaymentChanged(payment=repository.payment_of(row), reason=reason, changed_at=changed_at)
    tx.publish(message, correlation_id=row.payment_id, cause=cause)


async def _now(tx: Transaction) -> datetime:
    now: datetime = (await tx.connection.execute(sa.select(sa.func.now()))).scalar_one()
    return now
