"""What only a person can decide: opened by a poll or a sweep, decided by an operator, or healed by itself."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from uuid import UUID

from contracts.payments import PaymentChangeReason, PaymentReviewCode
from messaging.ids import new_id
from messaging.transaction import Transaction
from payments.domain.payment_state import Resolution, Review, pack_movements
from payments.domain.records import PaymentRecord
from payments.errors import ResolutionNotPossible, ReviewAlreadyResolved
from payments.handlers.announcements import announce
from payments.handlers.credits import request_movements
from payments.repository import payments, reviews

DECIDES_PAYMENT: Final[frozenset[PaymentReviewCode]] = frozenset(
    {"underpaid", "late", "amount_mismatch", "paid_after_dismissal"}
)
"""Reviews whose decision settles or ends the payment; the others are only taken note of. They close by themselves once
the payment does not wait for a decision any more."""
HEALED_BY_A_POLL: Final[frozenset[PaymentReviewCode]] = frozenset({"difference", "look_refused"})
"""Reviews that close by themselves once the provider has shown the payment."""


async def open_review(tx: Transaction, payment_id: UUID | None, review: Review, reference: str = "") -> None:
    """Put something before a person; finding it again only renews it."""
    await reviews.put_review(tx.connection, payment_id, new_id(), review, reference)


async def resolve_review(tx: Transaction, review_id: UUID, resolution: Resolution, actor: str, note: str) -> None:
    """Decide a review: ``credited`` grants the pack although the money did not match, ``dismissed`` does not.

    Raises ``ReviewAlreadyResolved``, also for an id that does not exist, and ``ResolutionNotPossible`` if there is
    nothing to credit.
    """
    found = await reviews.find_review(tx.connection, review_id)
    payment_id = None if found is None else found.payment_id
    # The payment first: a poll locks it while it writes the payment's reviews.
    payment = None if payment_id is None else await payments.lock_payment(tx.connection, payment_id)
    review = await reviews.lock_review(tx.connection, review_id)
    if review is None or review.resolved_at is not None:
        raise ReviewAlreadyResolved(f"no review {review_id} waits for a decision")
    decides = payment is not None and review.code in DECIDES_PAYMENT and payment.status == "review"
    if resolution == "credited" and not decides:
        status = "unknown" if payment is None else payment.status
        raise ResolutionNotPossible(f"a review '{review.code}' of a payment that is {status} can only be dismissed")
    await reviews.decide_review(tx.connection, review_id, resolution, actor, note)
    if payment is not None and decides:
        await _record_resolution(tx, payment, resolution)


_REASONS: Final[Mapping[Resolution, PaymentChangeReason]] = {
    "credited": "review_credited",
    "dismissed": "review_dismissed",
}


async def _record_resolution(tx: Transaction, payment: PaymentRecord, resolution: Resolution) -> None:
    """A person decided what a payment that did not match is worth: the whole pack, or nothing."""
    now = await payments.get_time(tx.connection)
    decided, reason = replace(payment, status="failed", resolution=resolution), _REASONS[resolution]
    if resolution == "credited":
        await request_movements(tx, payment, pack_movements(payment.credits, payment.bonus_credits))
        decided = replace(payment, status="settled", resolution=resolution, settled_at=now)
    announce(tx, await payments.update_payment(tx.connection, decided), reason, now)
    # What was refunded or disputed while it waited has its effect now.
    await payments.hint_payments(tx.connection, [payment.payment_id])
