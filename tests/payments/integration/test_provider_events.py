"""Each event once, ten times, reversed, before its predecessor, or never: the same final state."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import stripe

from local_platform.payment_providers.webhooks import Misbehaviour
from payments.tables import provider_events
from tests.payments.integration.conftest import ROTATED, SECRET, Desk
from tests.support.waiting import eventually

Scenario = Callable[[Desk, str], None]


def signed(
    event: dict[str, Any] | bytes, secret: str = SECRET, timestamp: int | None = None
) -> tuple[bytes, dict[str, str]]:
    body = event if isinstance(event, bytes) else json.dumps(event, indent=2).encode()
    header = stripe.WebhookSignature.generate_signature_header(body.decode(), secret, timestamp)
    return body, {"stripe-signature": header, "content-type": "application/json"}


def pay(desk: Desk, session: str) -> str:
    return str(desk.stripe.account.pay(session)["payment_intent"])


def paid(desk: Desk, session: str) -> None:
    pay(desk, session)


def paid_late(desk: Desk, session: str) -> None:
    desk.stripe.account.pay(session, "delayed")
    desk.stripe.account.finish_delayed(session, succeeded=True)


def bounced(desk: Desk, session: str) -> None:
    desk.stripe.account.pay(session, "delayed")
    desk.stripe.account.finish_delayed(session, succeeded=False)


def expired(desk: Desk, session: str) -> None:
    desk.stripe.account.expire(session)


def refunded(desk: Desk, session: str) -> None:
    desk.stripe.account.refund(pay(desk, session), None, None, {})


def partly_refunded_twice(desk: Desk, session: str) -> None:
    intent = pay(desk, session)
    desk.stripe.account.refund(intent, 500, None, {})
    desk.stripe.account.refund(intent, 1000, None, {})


def refund_failed(desk: Desk, session: str) -> None:
    refund = desk.stripe.account.refund(pay(desk, session), 1000, None, {}, "pending")
    desk.stripe.account.change_refund(refund["id"], "failed")


def dispute_lost(desk: Desk, session: str) -> None:
    dispute = desk.stripe.account.dispute(pay(desk, session), None, "needs_response")
    desk.stripe.account.change_dispute(dispute["id"], "under_review")
    desk.stripe.account.change_dispute(dispute["id"], "lost")


def dispute_won(desk: Desk, session: str) -> None:
    dispute = desk.stripe.account.dispute(pay(desk, session), None, "needs_response")
    desk.stripe.account.change_dispute(dispute["id"], "won")


def inquiry(desk: Desk, session: str) -> None:
    dispute = desk.stripe.account.dispute(pay(desk, session), None, "warning_needs_response")
    desk.stripe.account.change_dispute(dispute["id"], "warning_closed")


def fraud_warning(desk: Desk, session: str) -> None:
    desk.stripe.account.warn_of_fraud(pay(desk, session))


SCENARIOS: dict[Scenario, tuple[str, int]] = {
    paid: ("settled", 2750),
    paid_late: ("settled", 2750),
    bounced: ("failed", 0),
    expired: ("expired", 0),
    refunded: ("refunded", 0),
    partly_refunded_twice: ("partially_refunded", 1100),
    refund_failed: ("settled", 2750),
    dispute_lost: ("dispute_lost", 0),
    dispute_won: ("settled", 2750),
    inquiry: ("settled", 2750),
    fraud_warning: ("settled", 2750),
}

DELIVERIES: dict[str, Callable[[list[Any]], list[Any]]] = {
    "once": lambda events: events,
    "ten times": lambda events: [event for event in events for _ in range(10)],
    "reversed": lambda events: events[::-1],
    "the last before its predecessor": lambda events: [events[-1], *events[:-1]],
    "never": lambda events: [],
}


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_the_final_state_is_the_same_however_events_come(desk: Desk, scenario: Scenario, delivery: str) -> None:
    row = await desk.open()
    desk.stripe.account.sender.behave(Misbehaviour(drop=1))
    scenario(desk, row.provider_reference)
    events = list(desk.stripe.account.events.values())
    for event in DELIVERIES[delivery](events):
        answer = await desk.deliver(*signed(event))
        assert answer.status_code == 200
        await desk.pump()
    if delivery == "never":
        assert (await desk.payment(row.payment_id)).status == "pending"
    else:
        # Before any sweep and any planned look: the webhooks alone have led here.
        found = await desk.payment(row.payment_id)
        assert (found.status, await desk.balance(row.payment_id)) == SCENARIOS[scenario]
    # What no webhook said, the sweep asks for.
    await desk.sweep()
    await desk.look_again()
    found = await desk.payment(row.payment_id)
    assert (found.status, await desk.balance(row.payment_id)) == SCENARIOS[scenario]
    assert await desk.count(provider_events) == len(events)
    await desk.sweep()
    await desk.pump()
    assert [review.code for review in await desk.reviews() if review.resolved_at is None] == (
        ["early_fraud_warning"] if scenario is fraud_warning else []
    )


async def test_a_thousand_webhooks_at_once_credit_a_hundred_payments_once_each(desk: Desk) -> None:
    desk.policy = desk.policy.__class__(
        desk.policy.packs, desk.policy.providers, max_open_payments=1000, lifetime=desk.policy.lifetime
    )
    payments = [await desk.create(pack="starter") for _ in range(100)]
    await desk.pump()
    desk.stripe.account.sender.behave(Misbehaviour(drop=1))
    for payment_id in payments:
        desk.stripe.account.pay((await desk.payment(payment_id)).provider_reference)
    webhooks = [signed(event) for event in desk.stripe.account.events.values()] * 10
    assert len(webhooks) == 1000

    async def drive_when_woken() -> None:
        while True:
            await desk.due.wait()
            desk.due.clear()
            await desk.pump()

    drivers = [asyncio.create_task(drive_when_woken()) for _ in range(2)]
    # One client's connection pool is slow with a thousand requests; twenty senders are more like life anyway.
    async with contextlib.AsyncExitStack() as stack:
        senders = [await stack.enter_async_context(httpx.AsyncClient(timeout=60)) for _ in range(20)]
        url = f"{desk.url}/webhooks/stripe"
        answers = await asyncio.gather(
            *(
                senders[number % len(senders)].post(url, content=body, headers=headers)
                for number, (body, headers) in enumerate(webhooks)
            )
        )
    assert {answer.status_code for answer in answers} == {200}

    async def all_settled() -> bool:
        return {(await desk.payment(payment_id)).status for payment_id in payments} == {"settled"}

    # Their next planned look is a minute away: it was the webhooks.
    await eventually(all_settled, 30, "a hundred settled payments")
    for driver in drivers:
        driver.cancel()
    await asyncio.gather(*drivers, return_exceptions=True)
    await desk.look_again()
    for payment_id in payments:
        assert await desk.movements(payment_id) == {"purchase": 1000}
    grants = [command["grant_id"] for _, command in await desk.commands()]
    assert len(grants) == len(set(grants)) == 100


@pytest.mark.parametrize(
    ("case", "status"),
    [
        ("forged", 400),
        ("stale", 400),
        ("unsigned", 400),
        ("not ascii", 400),
        ("tampered", 400),
        ("oversized", 413),
        ("not json", 400),
    ],
)
async def test_a_webhook_that_does_not_prove_itself_gets_4xx_and_leaves_no_row(
    desk: Desk, case: str, status: int
) -> None:
    row = await desk.open()
    desk.stripe.account.sender.behave(Misbehaviour(drop=1))
    desk.stripe.account.pay(row.provider_reference)
    (event,) = desk.stripe.account.events.values()
    body, headers = signed(event)
    if case == "forged":
        body, headers = signed(event, secret="whsec_guessed")
    elif case == "stale":
        body, headers = signed(event, timestamp=int(time.time()) - 301)
    elif case == "unsigned":
        headers.pop("stripe-signature")
    elif case == "not ascii":
        headers["stripe-signature"] = f"t={int(time.time())},v1=\u00e9".encode("latin-1")
    elif case == "tampered":
        body = body.replace(b'"usd"', b'"eur"')
    elif case == "oversized":
        body, headers = signed(event | {"padding": "x" * 300_000})
    else:
        body, headers = signed(b"not json at all")
    answer = await desk.deliver(body, headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert await desk.count(provider_events) == 0


async def test_either_active_signing_secret_is_accepted(desk: Desk) -> None:
    row = await desk.open()
    desk.stripe.account.sender.behave(Misbehaviour(drop=1))
    desk.stripe.account.pay(row.provider_reference)
    (event,) = desk.stripe.account.events.values()
    for secret in (SECRET, ROTATED):
        assert (await desk.deliver(*signed(event, secret))).status_code == 200
    assert await desk.count(provider_events) == 1


async def test_a_webhook_for_an_unknown_provider_is_not_found(desk: Desk) -> None:
    assert (await desk.deliver(b"{}", {}, "paypal")).status_code == 404


async def test_an_hour_without_webhooks_is_made_good_by_one_sweep(desk: Desk) -> None:
    rows = [await desk.open() for _ in range(3)]
    desk.stripe.account.sender.behave(Misbehaviour(drop=1))
    for row in rows:
        desk.stripe.account.pay(row.provider_reference)
    settled = await desk.open()
    intent = desk.stripe.account.pay(settled.provider_reference)["payment_intent"]
    desk.stripe.account.refund(intent, None, None, {})
    assert await desk.count(provider_events) == 0
    await desk.sweep()
    await desk.pump()
    assert {(await desk.payment(row.payment_id)).status for row in rows} == {"settled"}
    assert (await desk.payment(settled.payment_id)).status == "refunded"


async def test_a_payment_that_we_know_nothing_of_is_put_before_a_person(desk: Desk) -> None:
    item = {"price_data": {"currency": "usd", "unit_amount": "700"}, "quantity": "1"}
    session = desk.stripe.account.open_session({"mode": "payment", "line_items": [item]})
    desk.stripe.account.pay(session["id"])
    await desk.sweep()
    (review,) = await desk.reviews()
    assert (review.code, review.payment_id) == ("unknown_payment", None)
    assert review.found == f"{session['id']}: 700 cents usd paid"


async def test_a_repeated_nowpayments_notification_is_one_event_and_its_raw_numbers_verify(desk: Desk) -> None:
    row = await desk.open("nowpayments")
    desk.nowpayments.sender.behave(Misbehaviour(copies=10))
    desk.nowpayments.pay(row.provider_reference, "finished")

    async def arrived() -> bool:
        return await desk.count(provider_events) == 1 and desk.nowpayments.sender.tries == 10

    await eventually(arrived, what="ten deliveries")
    await desk.pump()
    assert await desk.balance(row.payment_id) == 2750
