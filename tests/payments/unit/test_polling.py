"""When a payment is polled again."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from contracts.payments import PaymentStatus
from payments.domain.polling import is_overdue, next_poll_after, next_poll_after_refusal
from payments.domain.records import PaymentRecord

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
PENDING = PaymentRecord(
    payment_id=uuid4(),
    user_id=uuid4(),
    version=1,
    provider="btcpay",
    provider_reference="invoice_1",
    charge_reference=None,
    status="pending",
    resolution=None,
    pack_id="small",
    price_cents=1000,
    currency="usd",
    credits=1000,
    bonus_credits=50,
    refunded_cents=0,
    paid_cents=0,
    checkout_url="https://pay.example/invoice_1",
    return_url=None,
    receipt_url=None,
    detail=None,
    created_at=NOW,
    expires_at=NOW + timedelta(hours=1),
    settled_at=None,
    next_poll_at=NOW,
    poll_count=0,
    hint_count=0,
)


@pytest.mark.parametrize("status", ["created", "pending"])
@pytest.mark.parametrize(("poll_count", "seconds"), [(0, 60), (9, 60), (10, 300), (500, 300)])
def test_an_open_payment_is_polled_often_at_first(status: PaymentStatus, poll_count: int, seconds: int) -> None:
    payment = replace(PENDING, status=status, poll_count=poll_count)
    assert next_poll_after(payment, NOW) == timedelta(seconds=seconds)


def test_an_expired_payment_is_polled_hourly_for_three_days() -> None:
    expired = replace(PENDING, status="expired")
    last_moment = expired.expires_at + timedelta(days=3)
    assert next_poll_after(expired, last_moment - timedelta(seconds=1)) == timedelta(hours=1)
    assert next_poll_after(expired, last_moment) is None


@pytest.mark.parametrize("status", ["settled", "failed", "review", "refunded", "disputed"])
def test_every_other_payment_waits_for_a_hint_or_the_daily_comparison(status: PaymentStatus) -> None:
    assert next_poll_after(replace(PENDING, status=status), NOW) is None


@pytest.mark.parametrize(("age_hours", "wait_hours"), [(0, 1), (2, 1), (10, 5), (48, 24), (1000, 24)])
def test_a_refused_poll_is_repeated_after_half_the_age_within_bounds(age_hours: int, wait_hours: int) -> None:
    assert next_poll_after_refusal(PENDING, NOW + timedelta(hours=age_hours)) == timedelta(hours=wait_hours)


def test_an_open_checkout_is_overdue_ten_minutes_past_its_time() -> None:
    assert not is_overdue(PENDING, PENDING.expires_at + timedelta(minutes=10))
    assert is_overdue(PENDING, PENDING.expires_at + timedelta(minutes=10, seconds=1))


def test_a_buyer_reads_how_many_credits_arrive_with_the_bonus() -> None:
    assert PENDING.title == "1050 credits"
