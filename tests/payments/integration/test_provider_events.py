"""Each event once, ten times, reversed, before its predecessor, or never: the same final state."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest
import stripe

from local_platform.payment_providers.webhooks import Misbehaviour
from payments.tables import provider_events
from tests.payments.emulators import ROTATED, SECRET
from tests.payments.harness import PaymentsHarness
from tests.support.waiting import eventually

Scenario = Callable[[PaymentsHarness, str], None]


def signed(
    event: dict[str, Any] | bytes, secret: str = SECRET, timestamp: int | None = None
) -> tuple[bytes, dict[str, str]]:
    body = event if isinstance(event, bytes) else json.dumps(event, indent=2).encode()
    header = stripe.WebhookSignature.generate_signature_header(body.decode(), secret, timestamp)
    return body, {"stripe-signature": header, "content-type": "application/json"}


def pay(harness: PaymentsHarness, session: str) -> str:
    return str(harness.stripe.account.pay(session)["payment_intent"])


def paid(harness: PaymentsHarness, session: str) -> None:
    pay(harness, session)


def paid_late(harness: PaymentsHarness, session: str) -> None:
    harness.stripe.account.pay(session, "delayed")
    harness.stripe.account.finish_delayed(session, succeeded=True)


def bounced(harness: PaymentsHarness, session: str) -> None:
    harness.stripe.account.pay(session, "delayed")
    harness.stripe.account.finish_delayed(session, succeeded=False)


def expired(harness: PaymentsHarness, session: str) -> None:
    harness.stripe.account.expire(session)


def refunded(harness: PaymentsHarness, session: str) -> None:
    harness.stripe.account.refund(pay(harness, session), None, None, {})


def partly_refunded_twice(harness: PaymentsHarness, session: str) -> None:
    intent = pay(harness, session)
    harness.stripe.account.refund(intent, 500, None, {})
    harness.stripe.account.refund(intent, 1000, None, {})


def refund_failed(harness: PaymentsHarness, session: str) -> None:
    refund = harness.stripe.account.refund(pay(harness, session), 1000, None, {}, "pending")
    harness.stripe.account.change_refund(refund["id"], "failed")


def dispute_lost(harness: PaymentsHarness, session: str) -> None:
    dispute = harness.stripe.account.dispute(pay(harness, session), None, "needs_response")
    harness.stripe.account.change_dispute(dispute["id"], "under_review")
    harness.stripe.account.change_dispute(dispute["id"], "lost")


def dispute_won(harness: PaymentsHarness, session: str) -> None:
    dispute = harness.stripe.account.dispute(pay(harness, session), None, "needs_response")
    harness.stripe.account.change_dispute(dispute["id"], "won")


def inquiry(harness: PaymentsHarness, session: str) -> None:
    dispute = harness.stripe.account.dispute(pay(harness, session), None, "warning_needs_response")
    harness.stripe.account.change_dispute(dispute["id"], "warning_closed")


def fraud_warning(harness: PaymentsHarness, session: str) -> None:
    harness.stripe.account.warn_of_fraud(pay(harness, session))


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
async def test_the_final_state_is_the_same_however_events_come(
    harness: PaymentsHarness, scenario: Scenario, delivery: str
) -> None:
    opened = await harness.open()
    harness.stripe.sender.behave(Misbehaviour(drop=1))
    scenario(harness, opened.reference)
    events = list(harness.stripe.account.events.values())
    for event in DELIVERIES[delivery](events):
        answer = await harness.deliver(*signed(event))
        assert answer.status_code == 200
        await harness.run_loops()
    if delivery == "never":
        assert (await harness.payment(opened.payment_id)).status == "pending"
    else:
        # Before any sweep and any planned poll: the webhooks alone have led here.
        found = await harness.payment(opened.payment_id)
        assert (found.status, await harness.balance(opened.payment_id)) == SCENARIOS[scenario]
    # What no webhook said, the sweep finds.
    await harness.run_sweeps()
    await harness.poll_all()
    found = await harness.payment(opened.payment_id)
    assert (found.status, await harness.balance(opened.payment_id)) == SCENARIOS[scenario]
    assert await harness.count(provider_events) == len(events)
    await harness.run_sweeps()
    await harness.run_loops()
    assert await harness.open_review_codes() == (["early_fraud_warning"] if scenario is fraud_warning else [])


async def test_a_thousand_webhooks_credit_a_hundred_payments_once_each(harness: PaymentsHarness) -> None:
    harness.policy = replace(harness.policy, max_open_payments=1000)
    payments = [await harness.create(pack="starter") for _ in range(100)]
    await harness.run_loops()
    harness.stripe.sender.behave(Misbehaviour(drop=1))
    for session in list(harness.stripe.account.sessions):
        harness.stripe.account.pay(session)
    webhooks = [signed(event) for event in harness.stripe.account.events.values()] * 10
    assert len(webhooks) == 1000

    due = harness.wake_ups.polls["stripe"]

    async def work_when_woken() -> None:
        while True:
            await due.wait()
            due.clear()
            await harness.run_loops()

    workers = [asyncio.create_task(work_when_woken()) for _ in range(2)]
    # Forty at a time are two for each connection of the database's pool: more would only wait longer for one,
    # and on a busy machine longer than the pool allows.
    limits = httpx.Limits(max_connections=2)
    async with contextlib.AsyncExitStack() as stack:
        senders = [await stack.enter_async_context(httpx.AsyncClient(timeout=60, limits=limits)) for _ in range(20)]
        url = f"{harness.url}/webhooks/stripe"
        answers = await asyncio.gather(
            *(
                senders[number % len(senders)].post(url, content=body, headers=headers)
                for number, (body, headers) in enumerate(webhooks)
            )
        )
    assert {answer.status_code for answer in answers} == {200}

    async def all_settled() -> bool:
        return {(await harness.payment(payment_id)).status for payment_id in payments} == {"settled"}

    # Their next planned poll is a minute away: it was the webhooks.
    await eventually(all_settled, 30, "a hundred settled payments")
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    await harness.poll_all()
    for payment_id in payments:
        assert await harness.movements(payment_id) == {"purchase": 1000}
    grants = [command["grant_id"] for _, command in await harness.billing_commands()]
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
    ],
)
async def test_a_webhook_that_does_not_prove_itself_gets_4xx_and_leaves_no_row(
    harness: PaymentsHarness, case: str, status: int
) -> None:
    opened = await harness.open()
    harness.stripe.sender.behave(Misbehaviour(drop=1))
    harness.stripe.account.pay(opened.reference)
    (event,) = harness.stripe.account.events.values()
    headers: Mapping[str, str]
    body, headers = signed(event)
    if case == "forged":
        body, headers = signed(event, secret="whsec_guessed")
    elif case == "stale":
        body, headers = signed(event, timestamp=int(time.time()) - 301)
    elif case == "unsigned":
        headers = {}
    elif case == "not ascii":
        headers = httpx.Headers({"stripe-signature": f"t={int(time.time())},v1=\u00e9"}, encoding="latin-1")
    elif case == "tampered":
        body = body.replace(b'"usd"', b'"eur"')
    else:
        body, headers = signed(event | {"padding": "x" * 300_000})
    answer = await harness.deliver(body, headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert await harness.count(provider_events) == 0


async def test_either_active_signing_secret_is_accepted(harness: PaymentsHarness) -> None:
    opened = await harness.open()
    harness.stripe.sender.behave(Misbehaviour(drop=1))
    harness.stripe.account.pay(opened.reference)
    (event,) = harness.stripe.account.events.values()
    for secret in (SECRET, ROTATED):
        assert (await harness.deliver(*signed(event, secret))).status_code == 200
    assert await harness.count(provider_events) == 1


async def test_a_webhook_for_an_unknown_provider_is_not_found(harness: PaymentsHarness) -> None:
    assert (await harness.deliver(b"{}", {}, "paypal")).status_code == 404


async def test_an_hour_without_webhooks_is_made_good_by_one_sweep(harness: PaymentsHarness) -> None:
    rows = [await harness.open() for _ in range(3)]
    harness.stripe.sender.behave(Misbehaviour(drop=1))
    for unpaid in rows:
        harness.stripe.account.pay(unpaid.reference)
    settled = await harness.open()
    intent = harness.stripe.account.pay(settled.reference)["payment_intent"]
    harness.stripe.account.refund(intent, None, None, {})
    assert await harness.count(provider_events) == 0
    await harness.run_sweeps()
    await harness.run_loops()
    assert {(await harness.payment(opened.payment_id)).status for opened in rows} == {"settled"}
    assert (await harness.payment(settled.payment_id)).status == "refunded"


async def test_an_unknown_payment_is_put_before_a_person(harness: PaymentsHarness) -> None:
    item = {"price_data": {"currency": "usd", "unit_amount": "700"}, "quantity": "1"}
    session = harness.stripe.account.open_session({"mode": "payment", "line_items": [item]})
    harness.stripe.account.pay(session["id"])
    await harness.run_sweeps()
    (review,) = await harness.reviews()
    assert (review.code, review.payment_id) == ("unknown_payment", None)
    assert review.found == f"{session['id']}: 700 cents usd paid"


async def test_a_repeated_nowpayments_notification_is_one_event(
    harness: PaymentsHarness,
) -> None:
    opened = await harness.open("nowpayments")
    harness.nowpayments.sender.behave(Misbehaviour(copies=10))
    harness.nowpayments.pay(opened.reference, "finished")

    async def arrived() -> bool:
        return await harness.count(provider_events) == 1 and harness.nowpayments.sender.tries == 10

    await eventually(arrived, what="ten deliveries")
    await harness.run_loops()
    assert await harness.balance(opened.payment_id) == 2750


async def test_a_later_deposit_to_the_same_address_completes_the_payment(harness: PaymentsHarness) -> None:
    opened = await harness.open("nowpayments")
    first = harness.nowpayments.pay(opened.reference, "partially_paid", 0.4)
    await harness.poll_all()
    assert (await harness.payment(opened.payment_id)).status == "review"
    harness.nowpayments.deposit_again(str(first["payment_id"]), 0.6)
    # Only its webhook says so: it names the first deposit, and not our order.
    await eventually(lambda: harness.emulators.idle, 30, "the webhooks' delivery")
    await harness.run_loops()
    await harness.run_loops()
    assert await harness.outcome(opened.payment_id) == ("settled", 2750)
    assert await harness.open_reviews() == [], "there is nothing to decide any more"


async def test_dust_that_is_sent_back_does_not_stop_the_payment(harness: PaymentsHarness) -> None:
    opened = await harness.open("nowpayments")
    harness.nowpayments.pay(opened.reference, "refunded", 0.0001)
    harness.nowpayments.pay_in_full(opened.reference)
    await harness.poll_all()
    assert await harness.outcome(opened.payment_id) == ("settled", 2750)
