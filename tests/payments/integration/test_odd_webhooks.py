"""Signed webhooks of another shape than the documented one: kept for a person, and never sent again for days."""

import json
from collections.abc import Mapping

import pytest

from payments.providers.nowpayments import NowPayments
from payments.tables import provider_events
from tests.payments.harness import PaymentsHarness
from tests.payments.integration.test_provider_events import signed

DEEP = b'{"id":"evt_1","type":"x","data":' + b"[" * 20_000 + b"]" * 20_000 + b"}"

ODD: Mapping[str, tuple[str, bytes]] = {
    "text": ("stripe", b"not json at all"),
    "a list": ("stripe", b"[]"),
    "no id": ("stripe", b'{"type":"refund.created","data":{"object":{}}}'),
    "an id with a NUL": ("stripe", b'{"id":"evt_\\u0000","type":"refund.created","data":{"object":{}}}'),
    "half a surrogate pair": ("stripe", b'{"id":"evt_\\ud800","type":"refund.created","data":{"object":{}}}'),
    "a subject that is a list": ("stripe", b'{"id":"evt_1","type":"refund.created","data":{"object":[]}}'),
    "a reference with a NUL": ("stripe", b'{"id":"evt_1","type":"x","data":{"object":{"charge":"ch_\\u0000"}}}'),
    "metadata that is a text": ("stripe", b'{"id":"evt_1","type":"x","data":{"object":{"metadata":"x"}}}'),
    "deep nesting": ("stripe", DEEP),
    "btcpay: a list": ("btcpay", b"[]"),
    "btcpay: no type": ("btcpay", b'{"deliveryId":"d"}'),
    "btcpay: no invoice": ("btcpay", b'{"deliveryId":"d","type":"InvoiceSettled"}'),
    "btcpay: an invoice with a NUL": ("btcpay", b'{"deliveryId":"d","type":"InvoiceSettled","invoiceId":"\\u0000"}'),
    "btcpay: deep nesting": ("btcpay", DEEP),
    "nowpayments: a list": ("nowpayments", b"[]"),
    "nowpayments: no status": ("nowpayments", b'{"payment_id":1}'),
    "nowpayments: an id that is a list": ("nowpayments", b'{"payment_id":[1],"payment_status":"finished"}'),
    "nowpayments: a NUL": ("nowpayments", b'{"payment_id":"\\u0000","payment_status":"finished"}'),
}


def signed_by(harness: PaymentsHarness, provider: str, body: bytes) -> dict[str, str]:
    """The headers with which the provider's emulator would send ``body``."""
    if provider == "stripe":
        return signed(body)[1]
    sender = harness.btcpay if provider == "btcpay" else harness.nowpayments
    return sender._sign(body)


@pytest.mark.parametrize("case", ODD)
async def test_an_unreadable_event_is_kept_for_a_person_and_answered_200(harness: PaymentsHarness, case: str) -> None:
    provider, body = ODD[case]
    headers = signed_by(harness, provider, body)
    for _ in range(2):
        assert (await harness.deliver(body, headers, provider)).status_code == 200
    assert await harness.count(provider_events) == 1
    (review,) = await harness.open_reviews()
    assert (review.code, review.payment_id, review.found) == ("unreadable_event", None, f"{len(body)} bytes")
    await harness.run_loops()  # nothing is asked about it


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        ("btcpay", b'{"deliveryId":"d","webhookId":"w","type":"PayoutApproved","payoutId":"p","storeId":"s"}'),
        ("nowpayments", b'{"id":"1","batch_withdrawal_id":"2","status":"FINISHED","currency":"trx","amount":"5"}'),
    ],
)
async def test_an_event_about_something_else_is_answered_200(
    harness: PaymentsHarness, provider: str, body: bytes
) -> None:
    answer = await harness.deliver(body, signed_by(harness, provider, body), provider)
    assert answer.status_code == 200
    assert await harness.count(provider_events) == 0
    assert await harness.reviews() == []


async def test_an_expanded_payment_intent_still_finds_its_payment(harness: PaymentsHarness) -> None:
    opened = await harness.buy()
    intent = await harness.charge_of(opened)
    await harness.poll_all()
    harness.stripe.account.refund(intent, 500, None, {})
    await harness.poll_all()
    refund = {"id": "re_1", "object": "refund", "payment_intent": {"id": intent, "object": "payment_intent"}}
    event = {"id": "evt_expanded", "type": "refund.updated", "data": {"object": refund}}
    assert (await harness.deliver(*signed(event))).status_code == 200
    assert await harness.reviews() == []
    assert (await harness.payment(opened.payment_id)).status == "partially_refunded"


async def test_what_cannot_be_proven_cheaply_is_not_parsed(harness: PaymentsHarness) -> None:
    large = json.dumps({"payment_id": 1, "padding": "x" * NowPayments.max_webhook_bytes}).encode()
    answer = await harness.deliver(large, {"x-nowpayments-sig": "00"}, "nowpayments")
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    deep = b"[" * 5000 + b"]" * 5000
    answer = await harness.deliver(deep, {"x-nowpayments-sig": "00"}, "nowpayments")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_webhook_signature")
