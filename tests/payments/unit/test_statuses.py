"""Every status of payments has its paragraph."""

from typing import get_args

from contracts.payments import PaymentStatus
from payments.domain.snapshots import DisputeState, RefundState
from payments.domain.statuses import DISPUTE_STATE_MEANING, PAYMENT_STATUS_MEANING, REFUND_STATE_MEANING


def test_every_status_of_a_payment_a_refund_and_a_dispute_has_a_meaning() -> None:
    assert tuple(PAYMENT_STATUS_MEANING) == get_args(PaymentStatus)
    assert tuple(REFUND_STATE_MEANING) == get_args(RefundState)
    assert tuple(DISPUTE_STATE_MEANING) == get_args(DisputeState)
