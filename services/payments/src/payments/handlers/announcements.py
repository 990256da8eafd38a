"""Every change of a payment is announced in the transaction that makes it."""

from datetime import datetime
from typing import Any

from contracts.payments import Payment, PaymentChanged, PaymentChangeReason
from messaging.received import Received
from messaging.transaction import Transaction
from payments.domain.records import PaymentRecord


def announce(
    tx: Transaction,
    payment: PaymentRecord,
    reason: PaymentChangeReason,
    changed_at: datetime,
    cause: Received[Any] | None = None,
) -> None:
    """Say what the payment is now, and why."""
    message = PaymentChanged(payment=_announced(payment), reason=reason, changed_at=changed_at)
    tx.publish(message, correlation_id=payment.payment_id, cause=cause, traceparent=payment.traceparent)


def _announced(payment: PaymentRecord) -> Payment:
    return Payment(
        payment_id=payment.payment_id,
        user_id=payment.user_id,
        version=payment.version,
        provider=payment.provider,
        status=payment.status,
        pack_id=payment.pack_id,
        price_cents=payment.price_cents,
        currency=payment.currency,
        credits=payment.credits,
        bonus_credits=payment.bonus_credits,
        refunded_cents=payment.refunded_cents,
        checkout_url=payment.checkout_url,
        detail=payment.detail,
        receipt_url=payment.receipt_url,
        created_at=payment.created_at,
        expires_at=payment.expires_at,
    )
