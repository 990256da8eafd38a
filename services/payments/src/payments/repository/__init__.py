"""All SQL of payments that writes, and the reads that decide a write.

Lock order: a payer (advisory, by user) before a payment before everything else of that payment.
"""

from payments.repository.events import (
    add_event,
    claim_sweep,
    claim_unmatched,
    find_payment_of,
    finish_sweep,
    settle_event,
)
from payments.repository.movements import (
    add_movements,
    mark_posted,
    unposted_movements,
)
from payments.repository.refunds import (
    add_refund,
    claim_refunds,
    confirm_refund,
    fail_refund,
    live_refund_cents,
    manual_refunds,
    put_disputes,
    put_refunds,
)
from payments.repository.reviews import (
    decide_review,
    lock_review,
    put_review,
    resolve_reviews,
)
from payments.repository.transactions import (
    OPEN_STATUSES,
    Claim,
    add_payment,
    change_payment,
    claim_due,
    count_open,
    find_payment,
    get_standing,
    hint_payments,
    lock_claimed,
    lock_payer,
    lock_payment,
    payment_of,
    schedule_look,
    settled_since,
)

__all__ = [
    "OPEN_STATUSES",
    "Claim",
    "add_event",
    "add_movements",
    "add_payment",
    "add_refund",
    "change_payment",
    "claim_due",
    "claim_refunds",
    "claim_sweep",
    "claim_unmatched",
    "confirm_refund",
    "count_open",
    "decide_review",
    "fail_refund",
    "find_payment",
    "find_payment_of",
    "finish_sweep",
    "get_standing",
    "hint_payments",
    "live_refund_cents",
    "lock_claimed",
    "lock_payer",
    "lock_payment",
    "lock_review",
    "manual_refunds",
    "mark_posted",
    "payment_of",
    "put_disputes",
    "put_refunds",
    "put_review",
    "resolve_reviews",
    "schedule_look",
    "settle_event",
    "settled_since",
    "unposted_movements",
]
