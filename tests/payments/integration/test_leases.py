"""Every kind of leased work of payments: the conformance suite, and that a stale worker writes nothing."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.message import Service
from messaging.ids import new_id
from messaging.leases import LeasedTable
from messaging.transaction import Transaction
from payments.domain.records import RefundRecord, Sweep
from payments.domain.snapshots import Checkout, ProviderEvent, Snapshot
from payments.handlers.polls import record_checkout, record_snapshot
from payments.handlers.provider_events import record_match
from payments.handlers.refunds import postpone_refund, record_refund, record_refused_refund
from payments.repository import payments, provider_events, refunds, sweeps
from payments.repository.leases import EVENTS, REFUNDS, SWEEPS, Claimed
from payments.tables import provider_events as events_table
from payments.tables import refunds as refunds_table
from payments.tables import sweeps as sweeps_table
from tests.messaging.leases.case import LeaseCase
from tests.messaging.leases.conformance import LeaseConformance, LeaseRules
from tests.payments.harness import PaymentsHarness
from tests.payments.polls import PollCase, add_payments

OVER = timedelta(seconds=-1)
"""A lease that ended when it began."""


class RefundCase(LeaseCase):
    """Refunds that are requested and not sent."""

    service: ClassVar[Service] = "payments"
    table: ClassVar[LeasedTable] = REFUNDS
    completed: ClassVar[Mapping[str, Any]] = {"state": "pending"}

    async def add(self, tx: Transaction, count: int) -> None:
        for payment in await add_payments(tx.connection, count):
            refund = RefundRecord(
                refund_id=new_id(),
                payment_id=payment.payment_id,
                provider="stripe",
                provider_reference=None,
                amount_cents=100,
                state="requested",
                actor="ada",
                note=None,
            )
            await refunds.add_refund(tx.connection, refund)

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[Claimed[RefundRecord]]:
        return await refunds.claim_refunds(connection, "stripe", room, lease)


class EventCase(LeaseCase):
    """Events whose payment is not known."""

    service: ClassVar[Service] = "payments"
    table: ClassVar[LeasedTable] = EVENTS
    completed: ClassVar[Mapping[str, Any]] = {}

    async def add(self, tx: Transaction, count: int) -> None:
        for _ in range(count):
            event = ProviderEvent(f"evt_{new_id()}", "refund.created", None, "pi_unknown", b"{}")
            await provider_events.add_event(tx.connection, "stripe", event, "webhook", None)

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[Claimed[ProviderEvent]]:
        return await provider_events.claim_unmatched(connection, "stripe", room, lease)


class SweepCase(LeaseCase):
    """Sweeps that are due; one that is never due again stands for a completed one."""

    service: ClassVar[Service] = "payments"
    table: ClassVar[LeasedTable] = SWEEPS
    completed: ClassVar[Mapping[str, Any]] = {"due_at": datetime(9999, 1, 1, tzinfo=UTC)}

    async def add(self, tx: Transaction, count: int) -> None:
        await sweeps.add_sweeps(tx.connection, [f"{new_id()}:stripe" for _ in range(count)])

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[Claimed[Sweep]]:
        return await sweeps.claim_sweeps(connection, "stripe", room, lease)


class TestPollLeases(LeaseConformance):
    """Workers that poll are killed and frozen in every step."""

    case = PollCase


class TestRefundLeases(LeaseRules):
    """The same statements, by the rules."""

    case = RefundCase


class TestEventLeases(LeaseRules):
    """The same statements, by the rules; the key has two columns."""

    case = EventCase


class TestSweepLeases(LeaseRules):
    """The same statements, by the rules; a sweep recurs."""

    case = SweepCase


async def test_a_stale_poll_cannot_overwrite_a_newer_one(harness: PaymentsHarness) -> None:
    opened = await harness.open()
    await harness.make_all_due()
    async with harness.transactions.begin() as tx:
        (stale,) = await payments.claim_due(tx.connection, "stripe", 1, OVER)
    harness.stripe.account.pay(opened.reference)
    await harness.poll_all()
    before = await harness.payment(opened.payment_id)
    assert before.status == "settled"
    failed = Snapshot(reference=opened.reference, state="failed", paid_cents=0, currency="usd")
    async with harness.transactions.begin() as tx:
        await record_snapshot(tx, stale, failed)
    assert await harness.payment(opened.payment_id) == before


async def test_a_stale_checkout_does_not_replace_the_one_that_is_open(harness: PaymentsHarness) -> None:
    payment_id = await harness.create()
    async with harness.transactions.begin() as tx:
        (stale,) = await payments.claim_due(tx.connection, "stripe", 1, OVER)
    await harness.run_loops()
    before = await harness.payment(payment_id)
    assert before.status == "pending"
    async with harness.transactions.begin() as tx:
        await record_checkout(tx, stale, Checkout("cs_stale", "http://stale"))
    assert await harness.payment(payment_id) == before


async def test_a_stale_refusal_does_not_undo_a_refund_that_was_made(harness: PaymentsHarness) -> None:
    opened = await harness.buy()
    refund_id = await harness.request_refund(opened.payment_id, 1000)
    async with harness.transactions.begin() as tx:
        (stale,) = await refunds.claim_refunds(tx.connection, "stripe", 1, OVER)
    await harness.run_loops()
    before = await harness.refund(refund_id)
    assert before.provider_reference is not None
    async with harness.transactions.begin() as tx:
        await record_refused_refund(tx, stale, "charge_already_refunded")
        await record_refund(tx, stale, "re_stale")
        await postpone_refund(tx, stale)
    assert await harness.refund(refund_id) == before
    assert await harness.scalar(sa.select(refunds_table.c.next_try_at)) is None
    assert await harness.reviews() == []
    assert len(harness.stripe.account.refunds) == 1


async def test_a_stale_match_does_not_undo_a_newer_one(harness: PaymentsHarness) -> None:
    opened = await harness.open()
    event = ProviderEvent("evt_1", "refund.created", None, "pi_unknown", b"{}")
    async with harness.transactions.begin() as tx:
        await provider_events.add_event(tx.connection, "stripe", event, "webhook", None)
    async with harness.transactions.begin() as tx:
        (stale,) = await provider_events.claim_unmatched(tx.connection, "stripe", 1, OVER)
    async with harness.transactions.begin() as tx:
        (current,) = await provider_events.claim_unmatched(tx.connection, "stripe", 1, timedelta(minutes=1))
        await record_match(tx, current, opened.payment_id)
    async with harness.transactions.begin() as tx:
        await record_match(tx, stale, None)
    columns = events_table.c
    assert await harness.scalar(sa.select(columns.payment_id)) == opened.payment_id
    assert await harness.scalar(sa.select(columns.next_match_at)) is None


async def test_a_stale_sweep_does_not_move_what_was_read(harness: PaymentsHarness) -> None:
    day = timedelta(days=1)
    async with harness.transactions.begin() as tx:
        await sweeps.add_sweeps(tx.connection, ["events:stripe"])
    async with harness.transactions.begin() as tx:
        (stale,) = await sweeps.claim_sweeps(tx.connection, "stripe", 1, OVER)
    async with harness.transactions.begin() as tx:
        (current,) = await sweeps.claim_sweeps(tx.connection, "stripe", 1, timedelta(minutes=1))
        assert await sweeps.finish_sweep(tx.connection, current, day)
    async with harness.transactions.begin() as tx:
        assert not await sweeps.finish_sweep(tx.connection, stale, timedelta(0))
        await sweeps.postpone_sweep(tx.connection, stale.claim, timedelta(0))
    columns = sweeps_table.c
    assert await harness.scalar(sa.select(columns.read_until)) == current.row.started_at
    assert await harness.scalar(sa.select(columns.due_at - sa.func.now())) > timedelta(hours=23)
