"""Money that goes back because an operator requested it."""

from datetime import timedelta
from typing import Final
from uuid import UUID

from contracts.payments import PaymentStatus
from messaging.ids import new_id
from messaging.transaction import Transaction
from payments.domain.payment_state import Review
from payments.domain.records import PaymentRecord, RefundRecord
from payments.errors import RefundNotPossible
from payments.handlers.reviews import open_review
from payments.providers.registry import ADAPTERS
from payments.repository import payments, refunds
from payments.repository.leases import Claimed
from service_runtime.backoff import Backoff

NOT_SENT: Final = Backoff(first=timedelta(seconds=10), longest=timedelta(minutes=5))
"""After a provider gave no answer to a refund."""

REFUNDABLE: Final[frozenset[PaymentStatus]] = frozenset({"settled", "partially_refunded"})


async def request_refund(
    tx: Transaction,
    payment_id: UUID,
    amount_cents: int,
    actor: str,
    note: str,
    manual: bool,
    refund_id: UUID | None = None,
) -> UUID:
    """Write a refund down; the refund loop sends it. ``manual`` records one that was paid out by hand (crypto).

    Repeating it with the same ``refund_id`` changes nothing. Raises ``RefundNotPossible`` if more would go back than
    arrived, if the payment is not settled, or if the id names another refund.
    """
    payment = await payments.lock_payment(tx.connection, payment_id)
    refund_id = refund_id or new_id()
    known = await refunds.find_refund(tx.connection, refund_id)
    if known is not None:
        if (known.payment_id, known.amount_cents) != (payment_id, amount_cents):
            raise RefundNotPossible(f"{refund_id} is a refund of {known.amount_cents} cents of {known.payment_id}")
        return refund_id
    already_cents = await refunds.sum_live_refunds(tx.connection, payment_id)
    _check(payment, amount_cents, payment.paid_cents - already_cents, manual)
    await refunds.add_refund(
        tx.connection,
        RefundRecord(
            refund_id=refund_id,
            payment_id=payment_id,
            provider=payment.provider,
            provider_reference=f"manual:{refund_id}" if manual else None,
            amount_cents=amount_cents,
            state="succeeded" if manual else "requested",
            actor=actor,
            note=note,
        ),
    )
    await payments.hint_payments(tx.connection, [payment_id])
    return refund_id


def _check(payment: PaymentRecord, amount_cents: int, refundable_cents: int, manual: bool) -> None:
    if payment.status not in REFUNDABLE:
        raise RefundNotPossible(f"the payment is {payment.status}")
    if amount_cents <= 0 or amount_cents > refundable_cents:
        raise RefundNotPossible(f"{refundable_cents} cents can still be refunded")
    by_api = ADAPTERS[payment.provider].refunds_by_api
    if not by_api and not manual:
        raise RefundNotPossible(f"{payment.provider} refunds are paid out by hand: record it as manual")
    if by_api and manual:
        raise RefundNotPossible(
            f"{payment.provider}'s own refunds are found there: one recorded by hand as well would count twice"
        )


async def record_refund(tx: Transaction, claimed: Claimed[RefundRecord], reference: str) -> None:
    """The provider took a requested refund: the payment is polled for what became of it."""
    requested = claimed.row
    await payments.lock_payment(tx.connection, requested.payment_id)
    if await refunds.record_sent(tx.connection, claimed, reference):
        await payments.hint_payments(tx.connection, [requested.payment_id])


async def record_refused_refund(tx: Transaction, claimed: Claimed[RefundRecord], reason: str) -> None:
    """The provider does not make a requested refund: no credits are taken, and a person decides what to do instead."""
    requested = claimed.row
    await payments.lock_payment(tx.connection, requested.payment_id)
    if await refunds.fail_refund(tx.connection, claimed.claim):
        review = Review("refund_refused", f"{requested.amount_cents} cents given back", reason)
        await open_review(tx, requested.payment_id, review, str(requested.refund_id))


async def postpone_refund(tx: Transaction, claimed: Claimed[RefundRecord]) -> None:
    """The provider gave no answer: the refund is sent again later, under the same id."""
    claim = claimed.claim
    await refunds.postpone_refund(tx.connection, claim, NOT_SENT.delay(claim.tries, claim.key))
