"""What an operator does by hand: decide reviews and give money back. Every act names its actor."""

from typing import Any, Final
from uuid import UUID

from messaging.ids import new_id
from messaging.transaction import Transaction
from payments import handlers, repository
from payments.errors import RefundNotPossible, ResolutionNotPossible, ReviewAlreadyResolved

REFUNDABLE: Final = ("settled", "partially_refunded")
DECIDES_PAYMENT: Final = ("underpaid", "late", "amount_mismatch", "paid_after_dismissal")
"""Reviews whose decision settles or ends the payment; the others are only taken note of."""


async def resolve_review(tx: Transaction, review_id: UUID, resolution: str, actor: str, note: str) -> None:
    """Decide a review: ``credited`` grants the pack although the money did not match, ``dismissed`` does not.

    Raises ``ReviewAlreadyResolved``, also for an id that does not exist, and ``ResolutionNotPossible`` where there is
    nothing to credit.
    """
    found = await repository.find_review(tx.connection, review_id)
    payment_id = None if found is None else found.payment_id
    # The payment first: a look holds it while it writes the payment's reviews.
    payment = None if payment_id is None else await repository.lock_payment(tx.connection, payment_id)
    review = await repository.lock_review(tx.connection, review_id)
    if review is None or review.resolved_at is not None:
        raise ReviewAlreadyResolved(str(review_id))
    decides = payment is not None and review.code in DECIDES_PAYMENT and payment.status == "review"
    if resolution == "credited" and not decides:
        status = "unknown" if payment is None else payment.status
        raise ResolutionNotPossible(f"a review '{review.code}' of a payment that is {status} can only be dismissed")
    await repository.decide_review(tx.connection, review_id, resolution, actor, note)
    if payment is not None and decides:
        await handlers.record_resolution(tx, payment, resolution)


async def order_refund(
    tx: Transaction,
    payment_id: UUID,
    amount_cents: int,
    actor: str,
    note: str,
    manual: bool,
    refund_id: UUID | None = None,
) -> UUID:
    """Write a refund down; the driver sends it. ``manual`` records one that was paid out by hand (crypto).

    Repeating it with the same ``refund_id`` changes nothing. Raises ``RefundNotPossible`` when more would go back than
    came, the payment is not settled, or the id names another refund.
    """
    row = await repository.lock_payment(tx.connection, payment_id)
    refund_id = refund_id or new_id()
    known = await repository.find_refund(tx.connection, refund_id)
    if known is not None:
        if (known.payment_id, known.amount_cents) != (payment_id, amount_cents):
            raise RefundNotPossible(f"{refund_id} is a refund of {known.amount_cents} cents of {known.payment_id}")
        return refund_id
    already = await repository.live_refund_cents(tx.connection, payment_id)
    if row.status not in REFUNDABLE:
        raise RefundNotPossible(f"the payment is {row.status}")
    if amount_cents <= 0 or already + amount_cents > row.paid_cents:
        raise RefundNotPossible(f"{row.paid_cents - already} cents can still be refunded")
    if row.provider != "stripe" and not manual:
        raise RefundNotPossible(f"{row.provider} refunds are paid out by hand: record it as manual")
    if row.provider == "stripe" and manual:
        raise RefundNotPossible("Stripe's own refunds are found there: one recorded by hand as well would count twice")
    values: dict[str, Any] = {
        "refund_id": refund_id,
        "payment_id": payment_id,
        "provider": row.provider,
        "amount_cents": amount_cents,
        "actor": actor,
        "note": note,
    }
    if manual:
        values |= {"provider_reference": f"manual:{refund_id}", "state": "succeeded"}
    else:
        values |= {"state": "requested", "next_try_at": row.created_at}
    await repository.add_refund(tx.connection, values)
    await repository.hint_payments(tx.connection, [payment_id])
    return refund_id
