"""When a payment is polled next, if no hint comes before."""

from datetime import datetime, timedelta
from typing import Final

from contracts.payments import PaymentStatus
from payments.domain.records import PaymentRecord
from service_runtime.backoff import Backoff

OPEN_STATUSES: Final[frozenset[PaymentStatus]] = frozenset({"created", "pending"})
"""The statuses in which the user may still pay; the database's index of open payments names the same two."""

FIRST_POLLS: Final = 10
FIRST_POLLS_EVERY: Final = timedelta(seconds=60)
LATER_POLLS_EVERY: Final = timedelta(seconds=300)
EXPIRED_POLLS_EVERY: Final = timedelta(hours=1)
EXPIRED_POLLED_FOR: Final = timedelta(days=3)
"""An open payment is polled each minute at first and every five minutes later. An expired one is polled hourly for
three days, because coins may still arrive."""

EXPIRY_GRACE: Final = timedelta(minutes=10)
"""A checkout that stays open so long past our own limit has expired."""

NO_ANSWER: Final = Backoff(first=timedelta(seconds=2), longest=timedelta(minutes=5))
"""After a poll without an answer. It counts every poll of the payment: one that worked for long waits five minutes."""

REFUSED_SHORTEST: Final = timedelta(hours=1)
REFUSED_LONGEST: Final = timedelta(days=1)


def next_poll_after(payment: PaymentRecord, now: datetime) -> timedelta | None:
    """How long after a successful poll the next one is due; None if only a hint or the daily comparison polls again."""
    if payment.status in OPEN_STATUSES:
        return FIRST_POLLS_EVERY if payment.poll_count < FIRST_POLLS else LATER_POLLS_EVERY
    if payment.status == "expired" and now < payment.expires_at + EXPIRED_POLLED_FOR:
        return EXPIRED_POLLS_EVERY
    return None


def next_poll_after_refusal(payment: PaymentRecord, now: datetime) -> timedelta:
    """A payment that its provider refuses to show is polled again after half its age, within an hour and a day."""
    return min(max((now - payment.created_at) / 2, REFUSED_SHORTEST), REFUSED_LONGEST)


def is_overdue(payment: PaymentRecord, now: datetime) -> bool:
    """Whether the time to pay has been over for so long that an open checkout counts as expired."""
    return payment.expires_at + EXPIRY_GRACE < now
