"""The outcome of a poll: a checkout that was opened, a snapshot to apply, a refusal, or no answer at all."""

from dataclasses import replace
from typing import Final

from messaging.transaction import Transaction
from payments.domain.clawbacks import arrived_cents
from payments.domain.payment_state import Review
from payments.domain.polling import (
    FIRST_POLLS_EVERY,
    NO_ANSWER,
    is_overdue,
    next_poll_after,
    next_poll_after_refusal,
)
from payments.domain.records import PaymentRecord
from payments.domain.snapshots import Checkout, Snapshot
from payments.domain.transitions import apply_snapshot
from payments.handlers.announcements import announce
from payments.handlers.credits import request_movements
from payments.handlers.reviews import DECIDES_PAYMENT, HEALED_BY_A_POLL, open_review
from payments.repository import payments, refunds, reviews
from payments.repository.leases import Claimed

CHECKOUT_REFUSED: Final = "the payment provider could not open a checkout; nothing was paid"
"""What the buyer reads. The provider's own words are in the log."""


async def record_checkout(tx: Transaction, claimed: Claimed[PaymentRecord], checkout: Checkout) -> None:
    """The provider opened a checkout: the user can pay."""
    payment = await payments.lock_claimed(tx.connection, claimed.claim)
    if payment is None or payment.provider_reference is not None:
        return
    opened = replace(payment, provider_reference=checkout.reference, checkout_url=checkout.url, status="pending")
    now = await payments.get_time(tx.connection)
    announce(tx, await payments.update_payment(tx.connection, opened), "checkout_opened", now)
    await payments.schedule_poll(tx.connection, claimed, FIRST_POLLS_EVERY)


async def record_refusal(tx: Transaction, claimed: Claimed[PaymentRecord], reason: str) -> None:
    """The provider refuses. ``reason`` is its own text: a person reads it in a review, the buyer never does.

    A checkout that it does not open ends the payment: nothing was paid, and nothing will be. A payment that it does
    not show is polled again, ever more rarely, and stops counting as open once its time is over.
    """
    payment = await payments.lock_claimed(tx.connection, claimed.claim)
    if payment is None:
        return
    now = await payments.get_time(tx.connection)
    if payment.status == "created":
        failed = await payments.update_payment(
            tx.connection, replace(payment, status="failed", detail=CHECKOUT_REFUSED)
        )
        announce(tx, failed, "provider_refused", now)
        await payments.schedule_poll(tx.connection, claimed, None)
        return
    if payment.provider_reference is None:
        await open_review(tx, payment.payment_id, Review("no_checkout", payment.status, reason))
        await payments.schedule_poll(tx.connection, claimed, None)
        return
    await open_review(tx, payment.payment_id, Review("look_refused", payment.status, reason))
    if payment.status == "pending" and is_overdue(payment, now):
        expired = await payments.update_payment(tx.connection, replace(payment, status="expired"))
        announce(tx, expired, "look_refused", now)
    await payments.schedule_poll(tx.connection, claimed, next_poll_after_refusal(payment, now))


async def postpone(tx: Transaction, claimed: Claimed[PaymentRecord]) -> None:
    """The provider gave no answer: poll again later."""
    payment = claimed.row
    await payments.schedule_poll(tx.connection, claimed, NO_ANSWER.delay(payment.poll_count, payment.payment_id))


async def record_snapshot(tx: Transaction, claimed: Claimed[PaymentRecord], snapshot: Snapshot) -> None:
    """Apply what the provider shows, move credits and say what changed, all in one transaction."""
    payment = await payments.lock_claimed(tx.connection, claimed.claim)
    if payment is None:
        return
    now = await payments.get_time(tx.connection)
    seen = await with_manual_refunds(tx, payment, snapshot)
    if seen.state == "open" and is_overdue(payment, now):
        seen = replace(seen, state="expired")
    await refunds.put_refunds(tx.connection, payment.payment_id, payment.provider, snapshot.refunds)
    await refunds.put_disputes(tx.connection, payment.payment_id, payment.provider, snapshot.disputes)
    transition = apply_snapshot(await payments.get_payment_state(tx.connection, payment, seen.currency), seen)
    if transition.review is not None:
        await open_review(tx, payment.payment_id, transition.review)
    await request_movements(tx, payment, transition.movements)
    healed = HEALED_BY_A_POLL if transition.status == "review" else HEALED_BY_A_POLL | DECIDES_PAYMENT
    await reviews.heal_reviews(tx.connection, payment.payment_id, healed)
    settled = seen.state == "paid" and transition.status != "review"
    changed = replace(
        payment,
        status=transition.status,
        refunded_cents=transition.refunded_cents,
        paid_cents=arrived_cents(payment.paid_cents, seen),
        charge_reference=seen.charge_reference or payment.charge_reference,
        receipt_url=seen.receipt_url or payment.receipt_url,
        settled_at=payment.settled_at or (now if settled else None),
    )
    if changed != payment:
        payment = await payments.update_payment(tx.connection, changed)
        announce(tx, payment, transition.reason, now)
    await payments.schedule_poll(tx.connection, claimed, next_poll_after(payment, now))


async def with_manual_refunds(tx: Transaction, payment: PaymentRecord, snapshot: Snapshot) -> Snapshot:
    """The provider's view, and what an operator paid back by hand, of which no provider knows."""
    manual = await refunds.find_manual_refunds(tx.connection, payment.payment_id, snapshot.currency)
    return replace(snapshot, refunds=(*snapshot.refunds, *manual))
