"""What Stripe's statuses mean for a payment."""

from types import SimpleNamespace
from typing import Any

import pytest
import stripe

from payments.domain.snapshots import (
    CheckoutState,
    DisputeState,
    ProviderDispute,
    ProviderRefund,
    RefundState,
    Snapshot,
)
from payments.errors import InvalidWebhookSignature
from payments.providers.stripe_checkout import (
    StripeCheckout,
    _dispute,
    _in_the_price_currency,
    _refund,
    _state,
)
from service_runtime.database_watch import DatabaseClock


class StripeObject(SimpleNamespace):
    """As much of the SDK's objects as the adapter uses."""

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@pytest.mark.parametrize(
    ("status", "payment_status", "intent_status", "state"),
    [
        ("open", "unpaid", None, "open"),
        ("complete", "paid", "succeeded", "paid"),
        ("complete", "no_payment_required", None, "paid"),
        ("open", "no_payment_required", None, "open"),
        ("expired", "unpaid", None, "expired"),
        ("complete", "unpaid", "processing", "processing"),
        ("complete", "unpaid", "requires_payment_method", "failed"),
        ("complete", "unpaid", "canceled", "failed"),
        ("complete", "unpaid", "a_status_to_come", "processing"),
        (None, "unpaid", None, "processing"),
    ],
)
def test_a_session_is_paid_only_if_its_payment_status_says_so(
    status: str | None, payment_status: str, intent_status: str | None, state: CheckoutState
) -> None:
    assert _state(status, payment_status, intent_status) == state


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("pending", "pending"),
        ("requires_action", "pending"),
        ("succeeded", "succeeded"),
        ("failed", "failed"),
        ("canceled", "failed"),
        ("a_status_to_come", "pending"),
    ],
)
def test_an_unknown_refund_status_counts_as_money_on_its_way_out(status: str, state: RefundState) -> None:
    seen = _refund(StripeObject(id="re_1", amount=500, currency="USD", status=status, metadata={}))
    assert (seen.reference, seen.amount_cents, seen.state, seen.refund_id) == ("re_1", 500, state, None)
    assert seen.currency == "usd"


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("warning_needs_response", "warning"),
        ("warning_closed", "warning"),
        ("needs_response", "open"),
        ("under_review", "open"),
        ("won", "won"),
        ("prevented", "won"),
        ("lost", "lost"),
        ("a_status_to_come", "open"),
    ],
)
def test_a_dispute_has_taken_the_money_unless_it_is_a_warning_or_won(status: str, state: DisputeState) -> None:
    assert _dispute(StripeObject(id="dp_1", amount=500, currency="usd", status=status)).state == state


def test_a_refund_in_the_buyers_currency_is_worth_its_share_of_the_price() -> None:
    seen = Snapshot(
        "cs_1",
        "paid",
        1000,
        "usd",
        refunds=(ProviderRefund("re_1", 465, "eur", "succeeded"), ProviderRefund("re_2", 100, "gbp", "succeeded")),
        disputes=(ProviderDispute("dp_1", 930, "eur", "open"),),
    )
    intent = StripeObject(id="pi_1", amount_received=930, currency="eur")
    ours = _in_the_price_currency(seen, intent)
    assert [(one.amount_cents, one.currency) for one in ours.refunds] == [(500, "usd"), (100, "gbp")]
    assert [(one.amount_cents, one.currency) for one in ours.disputes] == [(1000, "usd")]
    assert _in_the_price_currency(seen, "pi_1") == seen


@pytest.mark.parametrize("offset_seconds", [-3600, 0, 300, 3600])
def test_a_webhook_is_as_old_as_the_databases_clock_says(offset_seconds: int) -> None:
    """This host's clock may be wrong by an hour: Stripe dates by the right one."""
    clock = DatabaseClock()
    clock.offset_seconds = offset_seconds
    adapter = StripeCheckout(clock, "rk_test", ["whsec_test"], "https://success", "https://cancel")

    def signed(age_seconds: int) -> dict[str, str]:
        made_at = int(clock.now()) - age_seconds
        return {"stripe-signature": stripe.WebhookSignature.generate_signature_header("{}", "whsec_test", made_at)}

    adapter.prove_webhook(signed(5), b"{}")
    with pytest.raises(InvalidWebhookSignature):
        adapter.prove_webhook(signed(320), b"{}")
