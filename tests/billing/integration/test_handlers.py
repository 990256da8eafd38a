"""What each command and reaction does to the ledger, on a real database."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal
from uuid import UUID, uuid4

import msgspec
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

import service_runtime.database
from billing import conservation, handlers
from billing.errors import (
    CaptureExceedsReservation,
    ConflictingCapture,
    ConflictingClawback,
    ConflictingGrant,
    ConflictingOrder,
    ForeignReservation,
    NoVariants,
    PaymentAlreadyGranted,
    SignupCreditsTooHigh,
)
from billing.loops import expiry
from contracts.billing import (
    CreditsCaptured,
    CreditsClawedBack,
    CreditsExpired,
    CreditsGranted,
    CreditsRefused,
    CreditsReleased,
    CreditsReserved,
    GrantSignupCredits,
    signup_grant_id,
)
from contracts.gateway import VariantsRequested
from contracts.message import Message
from messaging.ids import new_id
from messaging.transaction import Transactions
from tests.billing.ledger_harness import (
    GrantReason,
    LedgerHarness,
    cancelled,
    clawback,
    completed,
    failed,
    grant,
    order,
    variants,
    withdrawn,
)
from tests.support.databases import Database


async def test_granted_credits_can_be_reserved_and_the_event_carries_the_order(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 30)
    request = order(user, 20)
    (event,) = await ledger.handle(handlers.reserve, request)
    assert isinstance(event, CreditsReserved)
    assert event.order == request.order
    assert (event.line.line_number, event.line.available_after_credits, event.line.reserved_after_credits) == (
        2,
        10,
        20,
    )
    assert await ledger.balance(user) == (10, 20, 0)


async def test_orders_and_their_credits_are_counted_once_they_are_committed(ledger: LedgerHarness) -> None:
    def counted() -> list[float]:
        verdicts = [{"verdict": verdict} for verdict in ("reserved", "insufficient_credits")]
        found = [REGISTRY.get_sample_value("billing_verdicts_total", labels) for labels in verdicts]
        found.append(REGISTRY.get_sample_value("billing_credits_total", {"movement": "reserved"}))
        return [value or 0.0 for value in found]

    user, before = uuid4(), counted()
    await ledger.grant(user, 30)
    with pytest.raises(ConflictingOrder):
        await ledger.handle(handlers.reserve, order(user, 5, id_ := new_id()), order(user, 6, id_))
    assert counted() == before
    await ledger.handle(handlers.reserve, order(user, 10), order(user, 21), order(user, 15))
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [2, 1, 25]


async def test_a_batch_is_decided_in_the_order_of_arrival(ledger: LedgerHarness) -> None:
    user, other = uuid4(), uuid4()
    await ledger.grant(user, 30)
    events = await ledger.handle(
        handlers.reserve, order(user, 20), order(other, 1), order(user, 20), order(user, 10), order(user, 1)
    )
    assert [type(event) for event in events] == [
        CreditsReserved,
        CreditsRefused,
        CreditsRefused,
        CreditsReserved,
        CreditsRefused,
    ]
    assert await ledger.balance(user) == (0, 30, 0)


async def test_a_refusal_says_the_required_and_the_available_credits(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 12)
    (event,) = await ledger.handle(handlers.reserve, order(user, 30))
    assert isinstance(event, CreditsRefused)
    assert (event.code, event.required_credits, event.available_credits) == ("insufficient_credits", 30, 12)


async def test_a_repeated_order_is_reserved_once_within_a_batch_and_across_batches(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 100)
    request = order(user, 20)
    assert len(await ledger.handle(handlers.reserve, request, request)) == 1
    assert await ledger.handle(handlers.reserve, request) == []
    assert await ledger.balance(user) == (80, 20, 0)


async def test_a_refused_order_stays_refused_when_it_is_repeated_with_credits_there(ledger: LedgerHarness) -> None:
    user = uuid4()
    request = order(user, 20)
    await ledger.handle(handlers.reserve, request)
    await ledger.grant(user, 100)
    assert await ledger.handle(handlers.reserve, request) == []
    assert await ledger.balance(user) == (100, 0, 0)


@pytest.mark.parametrize("withdrawal", ["cancelled", "expired"])
async def test_a_withdrawn_order_is_refused_and_a_request_that_comes_later_is_not_reserved(
    ledger: LedgerHarness, withdrawal: Literal["cancelled", "expired"]
) -> None:
    user = uuid4()
    await ledger.grant(user, 100)
    request = order(user, 20)
    (event,) = await ledger.handle(handlers.reserve, withdrawn(request, withdrawal))
    assert isinstance(event, CreditsRefused)
    assert event.code == withdrawal
    assert await ledger.handle(handlers.reserve, request) == []
    assert await ledger.balance(user) == (100, 0, 0)


async def test_a_withdrawal_that_comes_after_the_reservation_changes_nothing(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 100)
    request = order(user, 20)
    (event,) = await ledger.handle(handlers.reserve, request, withdrawn(request, "expired"))
    assert isinstance(event, CreditsReserved)
    assert await ledger.balance(user) == (80, 20, 0)


async def test_variants_are_reserved_together_each_with_its_own_reservation_and_line(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 65)
    request = variants(user, 20, *(new_id() for _ in range(3)))
    events = await ledger.handle(handlers.reserve, request, request)
    assert [event.order for event in events if isinstance(event, CreditsReserved)] == list(request.orders)
    assert len(events) == 3
    assert await ledger.handle(handlers.reserve, request) == []
    assert await ledger.balance(user) == (5, 60, 0)
    first, second, third = (one.generation_id for one in request.orders)
    await ledger.handle(handlers.resolve, completed(user, first, 20), failed(user, second), cancelled(user, third))
    assert await ledger.balance(user) == (45, 0, 0)
    async with ledger.engine.connect() as connection:
        assert await conservation.find_violations(connection) == []


@pytest.mark.parametrize(("credits", "code"), [(59, "insufficient_credits"), (100, "account_frozen")])
async def test_variants_that_cannot_all_be_funded_are_all_refused(
    ledger: LedgerHarness, credits: int, code: str
) -> None:
    user = uuid4()
    await ledger.grant(user, credits)
    if code == "account_frozen":
        await ledger.handle(handlers.apply_commands, clawback(user, credits + 1, new_id()))
    before = await ledger.balance(user)
    request = variants(user, 20, *(new_id() for _ in range(3)))
    events = await ledger.handle(handlers.reserve, request, order(user, 59))
    refused = [event for event in events if isinstance(event, CreditsRefused)]
    assert [event.generation_id for event in refused[:3]] == [one.generation_id for one in request.orders]
    assert {(event.code, event.required_credits, event.available_credits) for event in refused[:3]} == {
        (code, 60, before[0])
    }
    assert isinstance(events[3], CreditsReserved) is (code == "insufficient_credits"), "what it needs is still there"
    await ledger.grant(user, 1000)
    assert await ledger.handle(handlers.reserve, request) == []


async def test_a_variant_that_was_withdrawn_before_does_not_count_for_the_others(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 40)
    request = variants(user, 20, *(new_id() for _ in range(3)))
    gone = order(user, 20, request.orders[1].generation_id)
    await ledger.handle(handlers.reserve, withdrawn(gone, "cancelled"))
    events = await ledger.handle(
        handlers.reserve, request, withdrawn(order(user, 20, gone.order.generation_id), "expired")
    )
    assert [event.order for event in events if isinstance(event, CreditsReserved)] == [
        request.orders[0],
        request.orders[2],
    ]
    assert await ledger.balance(user) == (0, 40, 0)


async def test_orders_that_are_not_variants_of_one_order_are_not_funded_together(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 100)
    first, second = variants(user, 20, new_id(), new_id()).orders
    mixed = (
        (),
        (first, first),
        (first, msgspec.structs.replace(second, user_id=uuid4())),
        (first, msgspec.structs.replace(second, price_credits=1)),
    )
    for orders in mixed:
        with pytest.raises(NoVariants):
            await ledger.handle(handlers.reserve, VariantsRequested(user_id=user, orders=orders))
    with pytest.raises(NoVariants):
        await ledger.handle(handlers.reserve, VariantsRequested(user_id=uuid4(), orders=(first, second)))
    await ledger.handle(handlers.reserve, order(user, 30, second.generation_id))
    with pytest.raises(ConflictingOrder):
        await ledger.handle(handlers.reserve, VariantsRequested(user_id=user, orders=(first, second)))
    assert await ledger.balance(user) == (70, 30, 0)


async def test_an_order_repeated_at_another_price_is_an_error(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 100)
    request = order(user, 20)
    await ledger.handle(handlers.reserve, request)
    with pytest.raises(ConflictingOrder):
        await ledger.handle(handlers.reserve, order(user, 21, request.order.generation_id))


async def test_a_capture_charges_and_a_second_one_changes_nothing(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 30)
    generation = await ledger.reserve(user, 20)
    (event,) = await ledger.handle(handlers.resolve, completed(user, generation, 20))
    assert isinstance(event, CreditsCaptured)
    assert (event.captured_credits, event.released_credits) == (20, 0)
    assert await ledger.handle(handlers.resolve, completed(user, generation, 20)) == []
    assert await ledger.balance(user) == (10, 0, 0)


async def test_a_partial_capture_releases_the_rest_in_the_same_event(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 30)
    generation = await ledger.reserve(user, 20)
    (event,) = await ledger.handle(handlers.resolve, completed(user, generation, 5))
    assert isinstance(event, CreditsCaptured)
    assert [line.reason for line in event.lines] == ["capture", "release"]
    assert await ledger.balance(user) == (25, 0, 0)


@pytest.mark.parametrize("outcome", [failed, cancelled])
async def test_a_failed_or_cancelled_order_gives_its_credits_back(
    ledger: LedgerHarness, outcome: Callable[[UUID, UUID], Message]
) -> None:
    user = uuid4()
    await ledger.grant(user, 30)
    generation = await ledger.reserve(user, 20)
    (event,) = await ledger.handle(handlers.resolve, outcome(user, generation))
    assert isinstance(event, CreditsReleased)
    assert event.released_credits == 20
    assert await ledger.balance(user) == (30, 0, 0)


async def test_the_first_outcome_wins_whatever_comes_after_it(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 40)
    released, captured = await ledger.reserve(user, 20), await ledger.reserve(user, 20)
    await ledger.handle(handlers.resolve, failed(user, released), completed(user, captured, 20))
    later = (
        completed(user, released, 20),
        failed(user, captured),
        cancelled(user, captured),
        cancelled(user, released),
    )
    assert await ledger.handle(handlers.resolve, *later) == []
    assert await ledger.balance(user) == (20, 0, 0)


async def test_outcomes_within_one_batch_count_in_order_of_arrival(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 20)
    generation = await ledger.reserve(user, 20)
    events = await ledger.handle(
        handlers.resolve, cancelled(user, generation), completed(user, generation, 20), failed(user, generation)
    )
    assert [type(event) for event in events] == [CreditsReleased]


async def test_a_late_completion_captures_nothing_even_if_the_credits_are_still_held(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 20)
    generation = await ledger.reserve(user, 20)
    assert await ledger.handle(handlers.resolve, completed(user, generation, 20, late=True)) == []
    await ledger.handle(handlers.resolve, failed(user, generation))
    assert await ledger.handle(handlers.resolve, completed(user, generation, 20, late=True)) == []
    assert await ledger.balance(user) == (20, 0, 0)


async def test_an_outcome_before_its_reservation_is_deferred_and_the_batch_goes_on(ledger: LedgerHarness) -> None:
    user, stranger = uuid4(), uuid4()
    await ledger.grant(user, 20)
    generation = await ledger.reserve(user, 20)
    early = completed(stranger, uuid4(), 5)
    recording = await ledger.record(handlers.resolve, early, completed(user, generation, 20))
    assert recording.deferred == [early]
    assert len(recording.published) == 1
    assert await ledger.scalar("SELECT count(*) FROM billing.users WHERE user_id = :user", user=stranger) == 0


async def test_capturing_more_than_was_reserved_is_an_error_and_changes_nothing(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 100)
    generation = await ledger.reserve(user, 20)
    with pytest.raises(CaptureExceedsReservation):
        await ledger.handle(handlers.resolve, completed(user, generation, 21))
    assert await ledger.balance(user) == (80, 20, 0)


async def test_a_second_capture_at_another_price_is_an_error(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 100)
    generation = await ledger.reserve(user, 20)
    await ledger.handle(handlers.resolve, completed(user, generation, 20))
    with pytest.raises(ConflictingCapture):
        await ledger.handle(handlers.resolve, completed(user, generation, 19))


async def test_an_outcome_that_names_another_user_is_an_error(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 100)
    generation = await ledger.reserve(user, 20)
    with pytest.raises(ForeignReservation):
        await ledger.handle(handlers.resolve, completed(uuid4(), generation, 20))


async def test_a_grant_happens_once_and_its_id_cannot_be_used_for_another(ledger: LedgerHarness) -> None:
    user = uuid4()
    command = grant(user, 50, "signup")
    first = await ledger.handle(handlers.apply_commands, command, command)
    assert [type(event) for event in first] == [CreditsGranted]
    assert await ledger.handle(handlers.apply_commands, command) == []
    with pytest.raises(ConflictingGrant):
        await ledger.handle(handlers.apply_commands, grant(user, 51, "signup", grant_id=command.grant_id))
    assert await ledger.balance(user) == (50, 0, 0)


async def test_a_signup_is_credited_once_and_within_billings_own_limit(ledger: LedgerHarness) -> None:
    user = uuid4()
    apply_commands = partial(handlers.apply_commands, max_signup_credits=50)
    too_much = GrantSignupCredits(user_id=user, amount_credits=51)
    for handler in (apply_commands, handlers.apply_commands):
        with pytest.raises(SignupCreditsTooHigh):
            await ledger.handle(handler, too_much)
    command = GrantSignupCredits(user_id=user, amount_credits=50)
    (event,) = await ledger.handle(apply_commands, command, command)
    assert isinstance(event, CreditsGranted)
    assert (event.grant_id, event.lines[0].reason) == (signup_grant_id(user), "signup")
    assert await ledger.handle(apply_commands, command) == []
    with pytest.raises(ConflictingGrant):
        await ledger.handle(apply_commands, GrantSignupCredits(user_id=user, amount_credits=49))
    assert await ledger.balance(user) == (50, 0, 0)


async def test_a_payment_is_credited_once_per_reason(ledger: LedgerHarness) -> None:
    user, payment = uuid4(), uuid4()
    await ledger.grant(user, 100, "purchase", payment_id=payment)
    await ledger.grant(user, 10, "bonus", payment_id=payment)
    reasons: tuple[GrantReason, ...] = ("purchase", "bonus")
    for reason in reasons:
        with pytest.raises(PaymentAlreadyGranted):
            await ledger.handle(handlers.apply_commands, grant(user, 100, reason, payment_id=payment))
    assert await ledger.balance(user) == (110, 0, 0)


async def test_two_failed_refunds_of_one_payment_both_come_back(ledger: LedgerHarness) -> None:
    user, payment = uuid4(), uuid4()
    await ledger.grant(user, 100, "purchase", payment_id=payment)
    await ledger.handle(handlers.apply_commands, clawback(user, 30, payment), clawback(user, 20, payment))
    await ledger.grant(user, 30, "refund_failed", payment_id=payment)
    await ledger.grant(user, 20, "refund_failed", payment_id=payment)
    assert await ledger.balance(user) == (100, 0, 0)


async def test_a_clawback_takes_available_credits_and_the_rest_is_owed(ledger: LedgerHarness) -> None:
    user, payment = uuid4(), uuid4()
    await ledger.grant(user, 100, "purchase", payment_id=payment)
    generation = await ledger.reserve(user, 70)
    command = clawback(user, 100, payment, "dispute")
    (event,) = await ledger.handle(handlers.apply_commands, command, command)
    assert isinstance(event, CreditsClawedBack)
    assert (event.clawed_back_credits, event.receivable_credits) == (30, 70)
    assert await ledger.handle(handlers.apply_commands, command) == []
    assert await ledger.balance(user) == (0, 70, 70)
    (refusal,) = await ledger.handle(handlers.reserve, order(user, 1))
    assert isinstance(refusal, CreditsRefused)
    assert refusal.code == "account_frozen"
    (release,) = await ledger.handle(handlers.resolve, failed(user, generation))
    assert isinstance(release, CreditsReleased)
    assert [line.reason for line in release.lines] == ["release", "receivable_settled"]
    assert await ledger.balance(user) == (0, 0, 0)


async def test_a_clawback_before_its_grant_ends_the_same_as_after_it(ledger: LedgerHarness) -> None:
    user, payment = uuid4(), uuid4()
    await ledger.handle(handlers.apply_commands, clawback(user, 60, payment))
    assert await ledger.balance(user) == (0, 0, 60)
    await ledger.grant(user, 100, "purchase", payment_id=payment)
    assert await ledger.balance(user) == (40, 0, 0)


async def test_a_clawback_id_cannot_be_used_for_another(ledger: LedgerHarness) -> None:
    user, payment = uuid4(), uuid4()
    command = clawback(user, 60, payment)
    await ledger.handle(handlers.apply_commands, command)
    with pytest.raises(ConflictingClawback):
        await ledger.handle(handlers.apply_commands, clawback(user, 61, payment, clawback_id=command.clawback_id))


async def _make_due(database: Database, grant_id: object) -> None:
    async with database.superuser_engine().begin() as connection:
        await connection.execute(
            text("UPDATE billing.grants SET expires_at = now() - interval '1 second' WHERE grant_id = :grant_id"),
            {"grant_id": grant_id},
        )


async def test_the_sweep_expires_the_remainder_of_due_grants_once(ledger: LedgerHarness, database: Database) -> None:
    user = uuid4()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    command = await ledger.grant(user, 50, "signup", expires_at=tomorrow)
    await ledger.grant(user, 7, "signup", expires_at=tomorrow)
    await ledger.reserve(user, 20)
    await _make_due(database, command.grant_id)
    for _ in range(2):
        await expiry.expire_due_grants(ledger.transactions)
        assert await ledger.balance(user) == (7, 20, 0)
    async with database.superuser_engine().connect() as connection:
        query = text("SELECT payload FROM billing.outbox_messages WHERE subject = :subject")
        [payload] = (await connection.execute(query, {"subject": CreditsExpired.subject})).scalars()
    event = msgspec.json.decode(payload, type=CreditsExpired)
    assert (event.grant_id, event.expired_credits) == (command.grant_id, 30)


async def test_grants_expire_although_one_account_cannot_be_changed(
    ledger: LedgerHarness, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "EXPIRY_BATCH", 3)
    users = [uuid4() for _ in range(5)]
    for user in users:
        command = await ledger.grant(user, 10, "signup", expires_at=datetime.now(UTC) + timedelta(days=1))
        await _make_due(database, command.grant_id)
    async with database.superuser_engine().begin() as connection:
        broken = text("UPDATE billing.users SET available_credits = 9 WHERE user_id = :user_id")
        await connection.execute(broken, {"user_id": users[0]})
    await expiry.expire_due_grants(ledger.transactions)
    assert [await ledger.balance(user) for user in users] == [(9, 0, 0)] + [(0, 0, 0)] * 4


async def test_grants_expire_although_one_account_is_locked(
    ledger: LedgerHarness, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_runtime.database, "LOCK_TIMEOUT_MS", 100)
    users = [uuid4() for _ in range(3)]
    for user in users:
        command = await ledger.grant(user, 10, "signup", expires_at=datetime.now(UTC) + timedelta(days=1))
        await _make_due(database, command.grant_id)
    async with database.superuser_engine().connect() as elsewhere:
        await elsewhere.execute(text("SELECT FROM billing.users WHERE user_id = :id FOR UPDATE"), {"id": users[0]})
        await expiry.expire_due_grants(Transactions(database.engine("billing"), "billing"))
    assert [await ledger.balance(user) for user in users] == [(10, 0, 0)] + [(0, 0, 0)] * 2


async def test_credits_past_their_time_cannot_be_spent_before_the_sweep_comes(
    ledger: LedgerHarness, database: Database
) -> None:
    user = uuid4()
    command = await ledger.grant(user, 50, "signup", expires_at=datetime.now(UTC) + timedelta(days=1))
    await _make_due(database, command.grant_id)
    events = await ledger.handle(handlers.reserve, order(user, 10))
    assert [type(event) for event in events] == [CreditsExpired, CreditsRefused]


async def test_released_credits_of_an_expired_grant_expire_in_the_same_event(
    ledger: LedgerHarness, database: Database
) -> None:
    user = uuid4()
    command = await ledger.grant(user, 50, "signup", expires_at=datetime.now(UTC) + timedelta(days=1))
    generation = await ledger.reserve(user, 20)
    await _make_due(database, command.grant_id)
    before = _count_expired()
    expired, released = await ledger.handle(handlers.resolve, failed(user, generation))
    assert isinstance(expired, CreditsExpired)
    assert isinstance(released, CreditsReleased)
    assert expired.expired_credits == 30
    assert [line.reason for line in released.lines] == ["release", "expiry"]
    assert await ledger.balance(user) == (0, 0, 0)
    assert _count_expired() - before == 50


def _count_expired() -> float:
    return REGISTRY.get_sample_value("billing_credits_total", {"movement": "expired"}) or 0.0


async def test_a_whole_life_leaves_a_ledger_that_is_conserved_and_a_statement_that_adds_up(
    ledger: LedgerHarness,
) -> None:
    user, payment = uuid4(), uuid4()
    await ledger.grant(user, 50, "signup")
    await ledger.grant(user, 100, "purchase", payment_id=payment)
    first, second, third = [await ledger.reserve(user, 40) for _ in range(3)]
    await ledger.handle(handlers.resolve, completed(user, first, 40), completed(user, second, 15))
    await ledger.handle(handlers.apply_commands, clawback(user, 100, payment))
    await ledger.handle(handlers.resolve, failed(user, third))
    await ledger.grant(user, 25)
    assert await conservation.check(ledger.engine) == []
    available = reserved = receivable = 0
    for number, line in enumerate(ledger.lines[user], start=1):
        available += line.available_delta_credits
        reserved += line.reserved_delta_credits
        receivable += line.receivable_delta_credits
        assert line.line_number == number
        assert (available, reserved, receivable) == (
            line.available_after_credits,
            line.reserved_after_credits,
            line.receivable_after_credits,
        )
    assert await ledger.balance(user) == (available, reserved, receivable)


async def test_grants_and_clawbacks_in_one_batch_count_in_order_of_arrival(ledger: LedgerHarness) -> None:
    user, payment = uuid4(), uuid4()
    events = await ledger.handle(
        handlers.apply_commands,
        clawback(user, 10, payment),
        grant(user, 50, "purchase", payment_id=payment),
        clawback(user, 50, payment),
    )
    assert [type(event) for event in events] == [CreditsClawedBack, CreditsGranted, CreditsClawedBack]
    reasons = [line.reason for line in ledger.lines[user]]
    assert reasons == ["refund", "purchase", "receivable_settled", "refund"]
    assert await ledger.balance(user) == (0, 0, 10)
