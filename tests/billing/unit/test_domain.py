"""The rules of the ledger, without a database."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Literal
from uuid import UUID, uuid4

import pytest

from billing import domain
from billing.domain import Account, Book, Refusal, Reservation
from billing.errors import BalanceTooLarge, CaptureExceedsReservation, InvalidAmount, SignupCreditsTooHigh
from contracts.billing import ClawBackCredits, GrantCredits, GrantSignupCredits
from contracts.values import LedgerLine

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
Reason = Literal["purchase", "bonus", "signup", "goodwill", "dispute_won", "refund_failed"]


def numbered_ids() -> Callable[[], UUID]:
    numbers = count(1)
    return lambda: UUID(int=next(numbers))


def book_at(moment: datetime = NOW) -> Book:
    return Book(moment, numbered_ids())


def new_account() -> Account:
    return Account(user_id=uuid4())


def credit(
    account: Account,
    amount: int,
    reason: Reason = "purchase",
    *,
    expires_at: datetime | None = None,
    payment_id: UUID | None = None,
    book: Book | None = None,
) -> tuple[UUID, tuple[LedgerLine, ...]]:
    command = GrantCredits(
        grant_id=uuid4(),
        user_id=account.user_id,
        amount_credits=amount,
        reason=reason,
        actor="test",
        payment_id=payment_id,
        expires_at=expires_at,
    )
    lines = domain.grant(book or book_at(), account, command)
    return command.grant_id, lines


def hold(account: Account, price: int, book: Book | None = None) -> Reservation:
    (verdict,) = domain.reserve(book or book_at(), account, [uuid4()], price, NOW + timedelta(hours=2))
    assert not isinstance(verdict, Refusal)
    return verdict[0]


def take_back(account: Account, amount: int, payment_id: UUID | None = None, book: Book | None = None) -> LedgerLine:
    command = ClawBackCredits(
        clawback_id=uuid4(),
        user_id=account.user_id,
        payment_id=payment_id or uuid4(),
        amount_credits=amount,
        reason="refund",
    )
    return domain.claw_back(book or book_at(), account, command)[1]


def balances(account: Account) -> tuple[int, int, int]:
    return account.available_credits, account.reserved_credits, account.receivable_credits


def test_every_transfer_adds_up_to_zero_and_names_its_cause() -> None:
    account, book = new_account(), book_at()
    credit(account, 100, book=book)
    reservation = hold(account, 60, book)
    domain.resolve(book, account, reservation, "captured", 25)
    take_back(account, 90, book=book)
    credit(account, 50, book=book)
    for transfer in book.transfers:
        line, cause = transfer.line, transfer.cause
        of_user = line.available_delta_credits + line.reserved_delta_credits - line.receivable_delta_credits
        assert of_user + transfer.platform_credits == 0
        assert sum(id_ is not None for id_ in (cause.generation_id, cause.grant_id, cause.clawback_id)) == 1
    assert len({transfer.line.transfer_id for transfer in book.transfers}) == len(book.transfers) == 7


def test_statement_lines_are_numbered_without_gaps_and_add_up_line_by_line() -> None:
    account, book = new_account(), book_at()
    _, lines = credit(account, 100, book=book)
    statement = list(lines)
    reservation = hold(account, 60, book)
    (verdict,) = domain.reserve(book, account, [uuid4()], 10, NOW)
    assert not isinstance(verdict, Refusal)
    _, resolved = domain.resolve(book, account, reservation, "captured", 25)
    reserve_line = LedgerLine(
        line_number=2,
        transfer_id=uuid4(),
        user_id=account.user_id,
        reason="reserve",
        available_delta_credits=-60,
        reserved_delta_credits=60,
        available_after_credits=40,
        reserved_after_credits=60,
        occurred_at=NOW,
    )
    statement += [reserve_line, verdict[1], *resolved, take_back(account, 90, book=book)]
    available = reserved = receivable = 0
    for number, line in enumerate(statement, start=1):
        available += line.available_delta_credits
        reserved += line.reserved_delta_credits
        receivable += line.receivable_delta_credits
        assert line.line_number == number
        assert (available, reserved, receivable) == (
            line.available_after_credits,
            line.reserved_after_credits,
            line.receivable_after_credits,
        )


def test_an_order_within_the_balance_is_reserved() -> None:
    account = new_account()
    credit(account, 30)
    reservation = hold(account, 30)
    assert reservation.amount_credits == 30
    assert balances(account) == (0, 30, 0)


def test_variants_are_reserved_as_long_as_the_balance_holds_all_of_them() -> None:
    account, book, ids = new_account(), book_at(), [uuid4() for _ in range(3)]
    credit(account, 60)
    verdicts = domain.reserve(book, account, ids, 20, NOW)
    reservations = [verdict[0] for verdict in verdicts if not isinstance(verdict, Refusal)]
    assert [(one.generation_id, one.amount_credits) for one in reservations] == [(id_, 20) for id_ in ids]
    assert balances(account) == (0, 60, 0)


def test_variants_that_cost_more_than_the_balance_are_all_refused() -> None:
    account, book, ids = new_account(), book_at(), [uuid4() for _ in range(3)]
    credit(account, 59)
    refusals = [one for one in domain.reserve(book, account, ids, 20, NOW) if isinstance(one, Refusal)]
    assert [one.generation_id for one in refusals] == ids
    assert {(one.required_credits, one.order_credits, one.available_credits) for one in refusals} == {(20, 60, 59)}
    assert balances(account) == (59, 0, 0)
    assert book.transfers == []


def test_an_order_beyond_the_balance_is_refused_and_moves_nothing() -> None:
    account, book = new_account(), book_at()
    credit(account, 29)
    (refusal,) = domain.reserve(book, account, [uuid4()], 30, NOW)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.required_credits, refusal.available_credits) == ("insufficient_credits", 30, 29)
    assert balances(account) == (29, 0, 0)
    assert book.transfers == []


@pytest.mark.parametrize(
    ("available", "reserved", "is_refused"),
    [
        (domain.MAX_BALANCE_CREDITS - 10, 0, False),
        (domain.MAX_BALANCE_CREDITS - 9, 0, True),
        (1, domain.MAX_BALANCE_CREDITS - 10, True),
    ],
)
def test_credits_beyond_the_largest_balance_are_refused(available: int, reserved: int, is_refused: bool) -> None:
    account = Account(user_id=uuid4(), available_credits=available, reserved_credits=reserved)
    if is_refused:
        with pytest.raises(BalanceTooLarge):
            credit(account, 10)
    else:
        credit(account, 10)


def test_a_debt_beyond_the_largest_balance_is_refused() -> None:
    account = Account(user_id=uuid4(), receivable_credits=domain.MAX_BALANCE_CREDITS)
    with pytest.raises(BalanceTooLarge):
        take_back(account, 1)


@pytest.mark.parametrize("price", [0, -1])
def test_an_order_without_a_positive_price_is_an_error(price: int) -> None:
    account = new_account()
    with pytest.raises(InvalidAmount):
        domain.reserve(book_at(), account, [uuid4()], price, NOW)


def test_a_full_capture_charges_everything_with_one_line() -> None:
    account = new_account()
    credit(account, 30)
    resolution, lines = domain.resolve(book_at(), account, hold(account, 30), "captured", 30)
    assert (resolution.captured_credits, resolution.released_credits) == (30, 0)
    assert [line.reason for line in lines] == ["capture"]
    assert balances(account) == (0, 0, 0)


def test_a_partial_capture_releases_the_rest_at_once() -> None:
    account = new_account()
    credit(account, 30)
    resolution, lines = domain.resolve(book_at(), account, hold(account, 30), "captured", 10)
    assert (resolution.captured_credits, resolution.released_credits) == (10, 20)
    assert [line.reason for line in lines] == ["capture", "release"]
    assert balances(account) == (20, 0, 0)


def test_capturing_nothing_gives_everything_back() -> None:
    account = new_account()
    credit(account, 30)
    resolution, lines = domain.resolve(book_at(), account, hold(account, 30), "captured", 0)
    assert (resolution.status, resolution.released_credits) == ("captured", 30)
    assert [line.reason for line in lines] == ["release"]


def test_capturing_more_than_was_reserved_is_an_error() -> None:
    account = new_account()
    credit(account, 100)
    with pytest.raises(CaptureExceedsReservation):
        domain.resolve(book_at(), account, hold(account, 30), "captured", 31)


def test_promotional_credits_are_spent_first_and_the_soonest_to_expire_first() -> None:
    account = new_account()
    bought, _ = credit(account, 10, "purchase")
    later, _ = credit(account, 10, "goodwill", expires_at=NOW + timedelta(days=9))
    never, _ = credit(account, 10, "bonus")
    soon, _ = credit(account, 10, "signup", expires_at=NOW + timedelta(days=2))
    drawn = [draw.grant_id for draw in hold(account, 40).draws]
    assert drawn == [soon, later, never, bought]


def test_a_partial_capture_charges_promotional_credits_and_gives_back_bought_ones() -> None:
    account = new_account()
    bought, _ = credit(account, 10, "purchase")
    promotional, _ = credit(account, 10, "signup")
    domain.resolve(book_at(), account, hold(account, 20), "captured", 12)
    assert account.grants[promotional].remaining_credits == 0
    assert account.grants[bought].remaining_credits == 8


def test_a_grant_past_its_time_loses_what_is_left_of_it() -> None:
    account = new_account()
    credit(account, 10)
    gone, _ = credit(account, 7, "signup", expires_at=NOW + timedelta(days=1))
    (expiry,) = domain.expire_due(book_at(NOW + timedelta(days=1)), account)
    assert (expiry.grant.grant_id, expiry.line.available_delta_credits) == (gone, -7)
    assert balances(account) == (10, 0, 0)
    assert domain.expire_due(book_at(NOW + timedelta(days=2)), account) == []


def test_reserved_credits_of_an_expired_grant_expire_when_they_are_released() -> None:
    account = new_account()
    credit(account, 7, "signup", expires_at=NOW + timedelta(days=1))
    reservation = hold(account, 5)
    later = book_at(NOW + timedelta(days=2))
    domain.expire_due(later, account)
    _, lines = domain.resolve(later, account, reservation, "released", 0)
    assert [(line.reason, line.available_delta_credits) for line in lines] == [("release", 5), ("expiry", -5)]
    assert balances(account) == (0, 0, 0)


def test_reserved_credits_of_an_expired_grant_can_still_be_captured() -> None:
    account = new_account()
    credit(account, 5, "signup", expires_at=NOW + timedelta(days=1))
    _, lines = domain.resolve(book_at(NOW + timedelta(days=2)), account, hold(account, 5), "captured", 5)
    assert [line.reason for line in lines] == ["capture"]


def test_a_clawback_takes_the_grant_of_its_payment_first() -> None:
    account, payment_id = new_account(), uuid4()
    signup, _ = credit(account, 10, "signup")
    refunded, _ = credit(account, 10, "purchase", payment_id=payment_id)
    take_back(account, 12, payment_id)
    assert account.grants[refunded].remaining_credits == 0
    assert account.grants[signup].remaining_credits == 8
    assert balances(account) == (8, 0, 0)


def test_what_a_clawback_cannot_take_is_owed_and_freezes_spending() -> None:
    account = new_account()
    credit(account, 10)
    line = take_back(account, 25)
    assert (line.available_delta_credits, line.receivable_delta_credits) == (-10, 15)
    (refusal,) = domain.reserve(book_at(), account, [uuid4()], 1, NOW)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "account_frozen"


def test_a_clawback_leaves_reserved_credits_alone_and_is_settled_by_their_release() -> None:
    account = new_account()
    credit(account, 10)
    reservation = hold(account, 8)
    take_back(account, 10)
    assert balances(account) == (0, 8, 8)
    _, lines = domain.resolve(book_at(), account, reservation, "released", 0)
    assert [line.reason for line in lines] == ["release", "receivable_settled"]
    assert balances(account) == (0, 0, 0)


def test_new_credits_settle_the_debt_first_and_spending_thaws() -> None:
    account = new_account()
    take_back(account, 15)
    added, lines = credit(account, 20)
    assert [line.reason for line in lines] == ["purchase", "receivable_settled"]
    assert account.grants[added].remaining_credits == 5
    assert balances(account) == (5, 0, 0)
    hold(account, 5)


def test_credits_smaller_than_the_debt_leave_the_account_frozen() -> None:
    account = new_account()
    take_back(account, 15)
    credit(account, 10)
    assert balances(account) == (0, 0, 5)


def test_credits_returned_after_a_dispute_come_out_of_what_was_refunded() -> None:
    account, book = new_account(), book_at()
    credit(account, 10, "dispute_won", book=book)
    (transfer,) = book.transfers
    assert (transfer.platform, transfer.platform_credits) == ("platform:refunded", -10)
    assert transfer.line.available_delta_credits == 10


def test_a_grant_that_arrives_after_its_time_expires_at_once() -> None:
    account = new_account()
    _, lines = credit(account, 10, "goodwill", expires_at=NOW - timedelta(seconds=1))
    assert [line.reason for line in lines] == ["goodwill", "expiry"]
    assert balances(account) == (0, 0, 0)


def test_a_clawback_passes_over_spent_grants_and_takes_from_the_others() -> None:
    account, payment_id = new_account(), uuid4()
    spent, _ = credit(account, 10, "bonus", payment_id=payment_id)
    domain.resolve(book_at(), account, hold(account, 10), "captured", 10)
    other, _ = credit(account, 10)
    take_back(account, 4, payment_id)
    assert [account.grants[grant_id].remaining_credits for grant_id in (spent, other)] == [0, 6]


@pytest.mark.parametrize("amount_credits", [1, 50])
def test_sign_up_credits_within_billings_own_bound_are_granted_as_promotion(amount_credits: int) -> None:
    command = GrantSignupCredits(user_id=uuid4(), amount_credits=amount_credits)
    granted = domain.signup_grant(command, largest_credits=50)
    assert (granted.grant_id, granted.user_id) == (command.grant_id, command.user_id)
    assert (granted.amount_credits, granted.reason, granted.actor) == (amount_credits, "signup", "gateway")
    assert (granted.payment_id, granted.expires_at) == (None, None)


def test_sign_up_credits_beyond_billings_own_bound_are_an_error() -> None:
    command = GrantSignupCredits(user_id=uuid4(), amount_credits=51)
    with pytest.raises(SignupCreditsTooHigh, match="51 credits, where at most 50 are allowed"):
        domain.signup_grant(command, largest_credits=50)


@pytest.mark.parametrize("amount", [0, -1])
def test_only_positive_amounts_are_granted_or_clawed_back(amount: int) -> None:
    account = new_account()
    with pytest.raises(InvalidAmount, match="grant"):
        credit(account, amount)
    with pytest.raises(InvalidAmount, match="clawback"):
        take_back(account, amount)
    assert balances(account) == (0, 0, 0)


def test_a_negative_capture_is_an_error() -> None:
    account = new_account()
    credit(account, 30)
    with pytest.raises(InvalidAmount, match="capture"):
        domain.resolve(book_at(), account, hold(account, 30), "captured", -1)


def test_a_reservation_remembers_how_it_was_resolved() -> None:
    account = new_account()
    credit(account, 30)
    reservation = hold(account, 30)
    resolution, _ = domain.resolve(book_at(), account, reservation, "captured", 12)
    resolved = domain.resolved(reservation, resolution)
    assert (resolved.status, resolved.captured_credits, resolved.amount_credits) == ("captured", 12, 30)
