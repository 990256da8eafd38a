"""Every status of payments has its paragraph, and the auditor, which proves independently, knows the same rules."""

from typing import get_args

from auditor.invariants import INVARIANTS
from contracts.payments import PaymentStatus
from payments.domain.polling import OPEN_STATUSES
from payments.domain.snapshots import DisputeState, RefundState
from payments.domain.statuses import DISPUTE_STATE_MEANING, PAYMENT_STATUS_MEANING, REFUND_STATE_MEANING


def test_every_status_of_a_payment_a_refund_and_a_dispute_has_a_meaning() -> None:
    assert tuple(PAYMENT_STATUS_MEANING) == get_args(PaymentStatus)
    assert tuple(REFUND_STATE_MEANING) == get_args(RefundState)
    assert tuple(DISPUTE_STATE_MEANING) == get_args(DisputeState)


def test_the_auditor_expects_a_next_poll_of_the_same_open_payments() -> None:
    (query,) = [invariant.query for invariant in INVARIANTS if invariant.code == "payments_are_looked_up"]
    listed = ", ".join(f"'{status}'" for status in sorted(OPEN_STATUSES))
    assert f"p.status IN ({listed})" in " ".join(query.split())
