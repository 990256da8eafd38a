"""The rules of the ledger: pure, synchronous, integers only.

An :class:`Account` is one user's credits while their row is locked. A :class:`Book` collects the transfers that the
transaction will write. The functions decide one message at a time, in order of arrival, and change both.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec

from billing.errors import BalanceTooLarge, CaptureExceedsReservation, InvalidAmount, SignupCreditsTooHigh
from billing.statuses import GrantState, ReservationStatus
from contracts.billing import ClawBackCredits, GrantCredits, GrantSignupCredits, RefusalCode
from contracts.values import LedgerLine, MovementReason

PlatformAccount = Literal["platform:issued", "platform:revenue", "platform:expired", "platform:refunded"]

MAX_AMOUNT_CREDITS: Final = 1_000_000_000
"""The most that one grant, clawback or order may move: far beyond any pack or price."""
MAX_BALANCE_CREDITS: Final = 1_000_000_000_000_000
"""The most that a user may have (available and reserved) or owe. Every client can represent it (2^53), and adding an
amount to it fits the database's integers."""

BOUGHT_REASONS: Final[frozenset[MovementReason]] = frozenset({"purchase", "dispute_won", "refund_failed"})
"""Grants that a user paid for. All others are promotional, and are spent first."""

RETURNED_REASONS: Final[frozenset[MovementReason]] = frozenset({"dispute_won", "refund_failed"})
"""Grants that undo a clawback: their credits come back from ``platform:refunded`` and are not issued again."""


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """What a transfer was made for."""

    generation_id: UUID | None = None
    payment_id: UUID | None = None
    grant_id: UUID | None = None
    clawback_id: UUID | None = None
    note: str | None = None


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """The postings that are made together: one for each balance of the user that moves, and one of the platform.

    They add up to zero. ``user:receivable`` is a debt, so its posting is negative: 40 credits owed are a balance of
    -40 there. Where credits only move between the user's own accounts, the platform has no part in it.
    """

    line: LedgerLine
    cause: Cause
    platform: PlatformAccount | None
    platform_credits: int


@dataclass(slots=True, kw_only=True)
class Grant:
    """Credits that arrived together. ``remaining_credits`` are not spent, not reserved and not expired."""

    grant_id: UUID
    reason: MovementReason
    remaining_credits: int
    payment_id: UUID | None
    expires_at: datetime | None
    granted_at: datetime

    def state(self, now: datetime) -> GrantState:
        """What can be done with the grant at ``now``."""
        if not self.remaining_credits:
            return "used_up"
        return "due" if self.expires_at is not None and self.expires_at <= now else "spendable"

    @property
    def spending_order(self) -> tuple[bool, bool, float, datetime, UUID]:
        """Promotional before bought, soonest expiry first, then the oldest."""
        expires = self.expires_at
        return (
            self.reason in BOUGHT_REASONS,
            expires is None,
            expires.timestamp() if expires else 0.0,
            self.granted_at,
            self.grant_id,
        )


class Draw(msgspec.Struct, frozen=True):
    """The part of a reservation that came out of one grant."""

    grant_id: UUID
    amount_credits: int


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """Credits set aside for one generation. ``draws`` are in spending order and add up to the amount."""

    reservation_id: UUID
    generation_id: UUID
    user_id: UUID
    amount_credits: int
    deadline_at: datetime
    reserved_at: datetime
    draws: tuple[Draw, ...]
    status: ReservationStatus = "held"
    captured_credits: int = 0


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """The one end of a reservation: what was charged and what went back."""

    reservation_id: UUID
    amount_credits: int
    status: Literal["captured", "released"]
    captured_credits: int
    released_credits: int
    resolved_at: datetime


class Contradiction(msgspec.Struct, frozen=True):
    """An outcome that came after another one had resolved the reservation. It changes nothing."""

    kind: Literal["capture_after_release", "release_after_capture"]
    generation_id: UUID


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A generation that was not funded. The verdict stands: the same generation is never reserved later.

    ``order_credits`` is the price of all the variants that were to be funded with it.
    """

    generation_id: UUID
    user_id: UUID
    code: RefusalCode
    required_credits: int
    order_credits: int
    available_credits: int
    refused_at: datetime


Decision = tuple[Reservation, LedgerLine] | Refusal
"""What becomes of one generation of an order."""


class Clawback(msgspec.Struct, frozen=True, kw_only=True):
    """Credits of a payment taken back: ``taken_credits`` at once, ``receivable_credits`` owed."""

    clawback_id: UUID
    user_id: UUID
    payment_id: UUID
    reason: Literal["refund", "dispute"]
    taken_credits: int
    receivable_credits: int
    note: str | None
    clawed_back_at: datetime


class Expiry(msgspec.Struct, frozen=True):
    """The credits that a grant still had when it expired."""

    grant: Grant
    line: LedgerLine


@dataclass(slots=True)
class Book:
    """What one transaction writes, in the order in which it was decided. ``occurred_at`` is the database's clock."""

    occurred_at: datetime
    new_id: Callable[[], UUID]
    transfers: list[Transfer] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Account:
    """One user's credits. At all times the grants' remainders add up to the available credits.

    While a user owes credits, none are available: credits that arrive settle the debt first.
    """

    user_id: UUID
    available_credits: int = 0
    reserved_credits: int = 0
    receivable_credits: int = 0
    line_number: int = 0
    grants: dict[UUID, Grant] = field(default_factory=dict)
    changed_grants: set[UUID] = field(default_factory=set)
    spending: list[Grant] | None = None
    """The grants in spending order, or None when the order must be computed again."""

    def add_grant(self, grant: Grant) -> None:
        """Take in a grant: a new one, or one read from the database."""
        self.grants[grant.grant_id] = grant
        self.spending = None

    def draw(self, amount_credits: int, order: Iterable[Grant] | None = None) -> tuple[Draw, ...]:
        """Take ``amount_credits`` out of the grants, in spending order unless another ``order`` is given."""
        draws: list[Draw] = []
        missing = amount_credits
        for grant in order if order is not None else self._in_spending_order():
            taken = min(missing, grant.remaining_credits)
            if taken:
                grant.remaining_credits -= taken
                self.changed_grants.add(grant.grant_id)
                draws.append(Draw(grant.grant_id, taken))
                missing -= taken
            if not missing:
                break
        assert missing == 0, f"the grants of user {self.user_id} hold {missing} credits less than are available"
        return tuple(draws)

    def return_draws(self, draws: Iterable[Draw]) -> None:
        """Return credits to the grants that they were drawn from."""
        for draw in draws:
            self.grants[draw.grant_id].remaining_credits += draw.amount_credits
            self.changed_grants.add(draw.grant_id)
        self.spending = None

    def _in_spending_order(self) -> list[Grant]:
        """The grants that can be spent. Sorted once and not for each order: a hot account gets a hundred in a batch."""
        if self.spending is None:
            self.spending = sorted(self.grants.values(), key=lambda grant: grant.spending_order)
        self.spending = [grant for grant in self.spending if grant.remaining_credits]
        return self.spending


def move(
    book: Book,
    account: Account,
    reason: MovementReason,
    cause: Cause,
    *,
    available: int = 0,
    reserved: int = 0,
    receivable: int = 0,
    platform: PlatformAccount | None = None,
) -> LedgerLine:
    """Record one transfer: the changes to a user's balances, and the platform's posting that balances them.

    Raises BalanceTooLarge.
    """
    account.available_credits += available
    account.reserved_credits += reserved
    account.receivable_credits += receivable
    account.line_number += 1
    assert account.available_credits >= 0, "available credits would be negative"
    assert account.reserved_credits >= 0, "reserved credits would be negative"
    assert account.receivable_credits >= 0, "receivable credits would be negative"
    if max(account.available_credits + account.reserved_credits, account.receivable_credits) > MAX_BALANCE_CREDITS:
        raise BalanceTooLarge(account.user_id, MAX_BALANCE_CREDITS)
    platform_credits = receivable - available - reserved
    assert (platform is None) == (platform_credits == 0), f"a transfer for {reason} does not add up to zero"
    line = LedgerLine(
        line_number=account.line_number,
        transfer_id=book.new_id(),
        user_id=account.user_id,
        reason=reason,
        available_delta_credits=available,
        reserved_delta_credits=reserved,
        receivable_delta_credits=receivable,
        available_after_credits=account.available_credits,
        reserved_after_credits=account.reserved_credits,
        receivable_after_credits=account.receivable_credits,
        generation_id=cause.generation_id,
        payment_id=cause.payment_id,
        note=cause.note,
        occurred_at=book.occurred_at,
    )
    book.transfers.append(Transfer(line=line, cause=cause, platform=platform, platform_credits=platform_credits))
    return line


def check_amount(what: str, id_: UUID, amount_credits: int) -> None:
    """Raise InvalidAmount, which names ``what`` and its id, unless the amount is 1 to ``MAX_AMOUNT_CREDITS``."""
    if not 1 <= amount_credits <= MAX_AMOUNT_CREDITS:
        raise InvalidAmount(f"{what} {id_}", amount_credits)


def expire_due(book: Book, account: Account) -> list[Expiry]:
    """Take away the remainder of every due grant. Credits that are reserved stay until they are resolved."""
    due = [grant for grant in account.grants.values() if grant.state(book.occurred_at) == "due"]
    expiries: list[Expiry] = []
    for grant in sorted(due, key=lambda grant: grant.spending_order):
        lost = grant.remaining_credits
        account.draw(lost, [grant])
        cause = Cause(grant_id=grant.grant_id, payment_id=grant.payment_id)
        line = move(book, account, "expiry", cause, available=-lost, platform="platform:expired")
        expiries.append(Expiry(grant, line))
    return expiries


def reserve(
    book: Book, account: Account, generation_ids: Sequence[UUID], price_credits: int, deadline_at: datetime
) -> list[Decision]:
    """Set ``price_credits`` aside for each generation of an order, or refuse all of them. Raises InvalidAmount."""
    check_amount("the order of generation", generation_ids[0], price_credits)
    required = price_credits * len(generation_ids)
    frozen = account.receivable_credits > 0
    if frozen or required > account.available_credits:
        code: RefusalCode = "account_frozen" if frozen else "insufficient_credits"
        return [refuse(book, account, id_, price_credits, code, required) for id_ in generation_ids]
    return [_set_aside(book, account, id_, price_credits, deadline_at) for id_ in generation_ids]


def _set_aside(
    book: Book, account: Account, generation_id: UUID, price_credits: int, deadline_at: datetime
) -> tuple[Reservation, LedgerLine]:
    reservation = Reservation(
        reservation_id=book.new_id(),
        generation_id=generation_id,
        user_id=account.user_id,
        amount_credits=price_credits,
        deadline_at=deadline_at,
        reserved_at=book.occurred_at,
        draws=account.draw(price_credits),
    )
    cause = Cause(generation_id=generation_id)
    line = move(book, account, "reserve", cause, available=-price_credits, reserved=price_credits)
    return reservation, line


def refuse(
    book: Book,
    account: Account,
    generation_id: UUID,
    price_credits: int,
    code: RefusalCode,
    order_credits: int | None = None,
) -> Refusal:
    """Decide that a generation is not funded; ``order_credits`` is the price of its order. Raises InvalidAmount."""
    check_amount("the order of generation", generation_id, price_credits)
    return Refusal(
        generation_id=generation_id,
        user_id=account.user_id,
        code=code,
        required_credits=price_credits,
        order_credits=price_credits if order_credits is None else order_credits,
        available_credits=account.available_credits,
        refused_at=book.occurred_at,
    )


def resolve(
    book: Book, account: Account, reservation: Reservation, status: Literal["captured", "released"], captured: int
) -> tuple[Resolution, tuple[LedgerLine, ...]]:
    """End a held reservation: charge ``captured`` credits of it and give back the rest.

    Promotional credits are charged before bought ones. Raises InvalidAmount and CaptureExceedsReservation.
    """
    assert reservation.status == "held", "only a held reservation can be resolved"
    if captured < 0:
        raise InvalidAmount(f"a capture (generation {reservation.generation_id})", captured)
    if captured > reservation.amount_credits:
        raise CaptureExceedsReservation(reservation.generation_id, captured, reservation.amount_credits)
    cause = Cause(generation_id=reservation.generation_id)
    released = reservation.amount_credits - captured
    lines: list[LedgerLine] = []
    if captured:
        lines.append(move(book, account, "capture", cause, reserved=-captured, platform="platform:revenue"))
    if released:
        account.return_draws(_uncharged(reservation.draws, captured))
        lines.append(move(book, account, "release", cause, available=released, reserved=-released))
        lines += (expiry.line for expiry in expire_due(book, account))
        lines += _settle_receivable(book, account, cause)
    resolution = Resolution(
        reservation_id=reservation.reservation_id,
        amount_credits=reservation.amount_credits,
        status=status,
        captured_credits=captured,
        released_credits=released,
        resolved_at=book.occurred_at,
    )
    return resolution, tuple(lines)


def resolved(reservation: Reservation, resolution: Resolution) -> Reservation:
    """The reservation as it is after its resolution."""
    return msgspec.structs.replace(reservation, status=resolution.status, captured_credits=resolution.captured_credits)


def grant(book: Book, account: Account, command: GrantCredits) -> tuple[LedgerLine, ...]:
    """Add credits, then settle the user's debt out of them. Raises InvalidAmount and BalanceTooLarge."""
    check_amount("grant", command.grant_id, command.amount_credits)
    added = Grant(
        grant_id=command.grant_id,
        reason=command.reason,
        remaining_credits=command.amount_credits,
        payment_id=command.payment_id,
        expires_at=command.expires_at,
        granted_at=book.occurred_at,
    )
    account.add_grant(added)
    account.changed_grants.add(added.grant_id)
    cause = Cause(grant_id=command.grant_id, payment_id=command.payment_id, note=command.note)
    source: PlatformAccount = "platform:refunded" if command.reason in RETURNED_REASONS else "platform:issued"
    lines = [move(book, account, command.reason, cause, available=command.amount_credits, platform=source)]
    lines += (expiry.line for expiry in expire_due(book, account))
    lines += _settle_receivable(book, account, cause)
    return tuple(lines)


def signup_grant(command: GrantSignupCredits, largest_credits: int) -> GrantCredits:
    """The grant for a sign-up. Raises SignupCreditsTooHigh for more than ``largest_credits``."""
    if command.amount_credits > largest_credits:
        raise SignupCreditsTooHigh(command.user_id, command.amount_credits, largest_credits)
    return GrantCredits(
        grant_id=command.grant_id,
        user_id=command.user_id,
        amount_credits=command.amount_credits,
        reason="signup",
        actor="gateway",
    )


def claw_back(book: Book, account: Account, command: ClawBackCredits) -> tuple[Clawback, LedgerLine]:
    """Take back the credits of a payment: available credits at once, the rest becomes a debt.

    The payment's own grants give first, then the others in spending order. Raises InvalidAmount and BalanceTooLarge.
    """
    check_amount("clawback", command.clawback_id, command.amount_credits)
    taken = min(command.amount_credits, account.available_credits)
    owed = command.amount_credits - taken
    own_first = sorted(account.grants.values(), key=lambda g: (g.payment_id != command.payment_id, g.spending_order))
    account.draw(taken, own_first)
    cause = Cause(clawback_id=command.clawback_id, payment_id=command.payment_id, note=command.note)
    line = move(book, account, command.reason, cause, available=-taken, receivable=owed, platform="platform:refunded")
    clawback = Clawback(
        clawback_id=command.clawback_id,
        user_id=command.user_id,
        payment_id=command.payment_id,
        reason=command.reason,
        taken_credits=taken,
        receivable_credits=owed,
        note=command.note,
        clawed_back_at=book.occurred_at,
    )
    return clawback, line


def _settle_receivable(book: Book, account: Account, cause: Cause) -> list[LedgerLine]:
    """Pay the user's debt out of the credits that just became available."""
    amount = min(account.receivable_credits, account.available_credits)
    if not amount:
        return []
    account.draw(amount)
    return [move(book, account, "receivable_settled", cause, available=-amount, receivable=-amount)]


def _uncharged(draws: tuple[Draw, ...], captured: int) -> Iterable[Draw]:
    """The parts of the draws that remain after the first ``captured`` credits of them were charged."""
    for draw in draws:
        charged = min(captured, draw.amount_credits)
        captured -= charged
        if draw.amount_credits > charged:
            yield Draw(draw.grant_id, draw.amount_credits - charged)
