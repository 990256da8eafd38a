"""One function per command or reaction. Each takes a whole batch: lock, decide in order of arrival, write, publish.

Nothing here commits: the transaction belongs to the caller, and the messages are published with it.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, cast
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from billing import domain, metrics
from billing.domain import Account, Book, Contradiction, Decision, Reservation
from billing.errors import (
    ConflictingCapture,
    ConflictingClawback,
    ConflictingGrant,
    ConflictingOrder,
    ForeignReservation,
    NoVariants,
    PaymentAlreadyGranted,
)
from billing.repository import ledger
from contracts.billing import (
    ClawBackCredits,
    CreditsCaptured,
    CreditsClawedBack,
    CreditsExpired,
    CreditsGranted,
    CreditsRefused,
    CreditsReleased,
    CreditsReserved,
    GrantCredits,
    GrantSignupCredits,
)
from contracts.gateway import GenerationRequested, VariantsRequested
from contracts.generation import GenerationCancelled, GenerationCompleted, GenerationFailed
from contracts.values import GenerationOrder, LedgerLine
from messaging.ids import new_id
from messaging.received import Received
from messaging.transaction import Transaction

Request = GenerationRequested | VariantsRequested
Command = GrantCredits | ClawBackCredits
Outcome = GenerationCompleted | GenerationFailed | GenerationCancelled

OVERDUE_SLACK = timedelta(minutes=15)
"""How long after an order's own deadline its reservation counts as overdue: time for the outcome to travel."""

_STEPS_TO_SEND: Final = 2
"""A task sends its statement in its first step, and the loop hands that to the socket before the next one."""


async def reserve(tx: Transaction, batch: Sequence[Received[Request]]) -> None:
    """Fund orders, or refuse them. What already has a verdict is left as it is, withdrawn or not.

    The variants of an order are funded together, or refused together; those that were withdrawn before do not count.
    Raises InvalidAmount, ConflictingOrder and NoVariants.
    """
    requests = [(message, _orders(message)) for message in batch]
    orders = [order for _, variants in requests for order in variants]
    accounts = await ledger.lock_users(tx.connection, (order.user_id for order in orders), opening=True)
    now, verdicts = await ledger.find_verdicts(tx.connection, accounts, [order.generation_id for order in orders])
    book = _open_book(tx, accounts, now)
    decisions: list[tuple[Received[Request], GenerationOrder, Decision]] = []
    for message, variants in requests:
        undecided = _undecided(verdicts, variants)
        decided = _decide(book, accounts, message.payload, undecided)
        decisions += zip([message] * len(undecided), undecided, decided, strict=True)
    refusals = [decision for _, _, decision in decisions if isinstance(decision, domain.Refusal)]
    reservations = [decision[0] for _, _, decision in decisions if not isinstance(decision, domain.Refusal)]
    async with _while_writing(ledger.add_reservations(tx.connection, book, accounts.values(), reservations)):
        for message, order, decision in decisions:
            tx.publish(_verdict_event(order, decision), correlation_id=order.generation_id, cause=message)
    await ledger.add_refusals(tx.connection, refusals)
    # This keeps them, too: to free them takes time, and until the commit others may wait.
    tx.after_commit(lambda: metrics.count_verdicts([decision for _, _, decision in decisions]))


@asynccontextmanager
async def _while_writing(write: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """The body, which must not wait, runs while the database executes ``write``.

    Other transactions wait for the users that are locked: what takes time here and does not change the postings, such
    as the encoding of events, is done meanwhile.
    """
    writing = asyncio.create_task(write)
    try:
        for _ in range(_STEPS_TO_SEND):
            await asyncio.sleep(0)
        yield
    finally:
        await writing


def _orders(message: Received[Request]) -> Sequence[GenerationOrder]:
    """What is to be decided together. Raises NoVariants."""
    request = message.payload
    if isinstance(request, GenerationRequested):
        return (request.order,)
    ids = [order.generation_id for order in request.orders]
    alike = {(order.user_id, order.price_credits, order.expires_at) for order in request.orders}
    if len(alike) != 1 or len(set(ids)) != len(ids) or request.orders[0].user_id != request.user_id:
        raise NoVariants(ids)
    return request.orders


def _undecided(verdicts: dict[UUID, ledger.Verdict], orders: Sequence[GenerationOrder]) -> Sequence[GenerationOrder]:
    """The orders without a verdict, which they get now. Raises ConflictingOrder."""
    undecided = []
    for order in orders:
        asked = ledger.Verdict(order.user_id, order.price_credits)
        known = verdicts.get(order.generation_id)
        if known is None:
            verdicts[order.generation_id] = asked
            undecided.append(order)
        elif known != asked:
            raise ConflictingOrder(order.generation_id)
    return undecided


def _decide(
    book: Book, accounts: Mapping[UUID, Account], request: Request, orders: Sequence[GenerationOrder]
) -> Sequence[Decision]:
    """One verdict for each of the orders, which are alike."""
    if not orders:
        return ()
    first = orders[0]
    account, ids = accounts[first.user_id], [order.generation_id for order in orders]
    if isinstance(request, GenerationRequested) and request.withdrawal is not None:
        return [domain.refuse(book, account, id_, first.price_credits, request.withdrawal) for id_ in ids]
    return domain.reserve(book, account, ids, first.price_credits, first.expires_at + OVERDUE_SLACK)


async def resolve(tx: Transaction, batch: Sequence[Received[Outcome]]) -> None:
    """Resolve reservations as their generations ended: capture for delivered work, release the rest.

    The first outcome wins. A later one changes nothing: the same again is a repetition; a capture after the release
    is never charged; a release after the capture gives nothing back. A late completion captures nothing. An outcome
    whose reservation is not known yet is delivered again later. Raises ForeignReservation,
    CaptureExceedsReservation, ConflictingCapture and InvalidAmount.
    """
    messages = [message for message in batch if not _is_late(message.payload)]
    if not messages:
        return
    accounts = await ledger.lock_users(tx.connection, (m.payload.user_id for m in messages), opening=False)
    generation_ids = [message.payload.generation_id for message in messages]
    now, found = await ledger.find_reservations(tx.connection, accounts, generation_ids)
    _check_owners(messages, found)
    # A user whose row was committed only after the locking is not locked: to this batch the reservation is early.
    reservations = {id_: reservation for id_, reservation in found.items() if reservation.user_id in accounts}
    book = _open_book(tx, accounts, now)
    resolutions: list[domain.Resolution] = []
    contradictions: list[Contradiction] = []
    for message in messages:
        outcome = message.payload
        reservation = reservations.get(outcome.generation_id)
        if reservation is None:
            tx.defer(message, reason="the generation has no reservation yet")
        elif reservation.status != "held":
            _compare_with_resolution(reservation, outcome, contradictions)
        else:
            resolution, event = _resolve(book, accounts[outcome.user_id], reservation, outcome)
            reservations[outcome.generation_id] = domain.resolved(reservation, resolution)
            resolutions.append(resolution)
            tx.publish(event, correlation_id=outcome.generation_id, cause=message)
    await ledger.add_resolutions(tx.connection, book, accounts.values(), resolutions)
    tx.after_commit(lambda: metrics.count_resolutions(resolutions, contradictions))


async def apply_commands(
    tx: Transaction, batch: Sequence[Received[Command | GrantSignupCredits]], *, max_signup_credits: int = 0
) -> None:
    """Credit users and take credits back, each command once, in order of arrival.

    Raises InvalidAmount, BalanceTooLarge, ConflictingGrant, ConflictingClawback, PaymentAlreadyGranted and
    SignupCreditsTooHigh.
    """
    await _apply(tx, [_as_command(message, max_signup_credits) for message in batch])


def _as_command(message: Received[Command | GrantSignupCredits], max_signup_credits: int) -> Received[Command]:
    payload = message.payload
    if isinstance(payload, GrantSignupCredits):
        payload = domain.signup_grant(payload, max_signup_credits)
    return replace(cast("Received[Any]", message), payload=payload)


async def _apply(tx: Transaction, batch: Sequence[Received[Command]]) -> None:
    connection = tx.connection
    accounts, book = await _open_accounts(tx, (message.payload.user_id for message in batch))
    history = await _read_history(connection, [message.payload for message in batch])
    grants: list[tuple[GrantCredits, bytes]] = []
    clawbacks: list[tuple[domain.Clawback, bytes]] = []
    for message in batch:
        command = message.payload
        content = history.admit(command)
        if content is None:
            continue
        account = accounts[command.user_id]
        if isinstance(command, GrantCredits):
            lines = domain.grant(book, account, command)
            grants.append((command, content))
            tx.publish(
                _granted_event(command, lines), correlation_id=command.payment_id or command.grant_id, cause=message
            )
        else:
            clawback, line = domain.claw_back(book, account, command)
            clawbacks.append((clawback, content))
            tx.publish(_clawed_back_event(clawback, line), correlation_id=command.payment_id, cause=message)
    await ledger.add_grants(connection, grants, book.occurred_at)
    await ledger.add_clawbacks(connection, clawbacks)
    await ledger.add_transfers(connection, book, accounts.values())
    tx.after_commit(lambda: metrics.count_commands([command for command, _ in grants], [one for one, _ in clawbacks]))


async def grant_by_operator(tx: Transaction, batch: Sequence[Received[GrantCredits]]) -> None:
    """Credit users because an operator decided so, and record that: no payment explains these grants.

    Raises what ``apply_commands`` raises.
    """
    await apply_commands(tx, batch)
    await ledger.add_operator_grants(tx.connection, [message.payload for message in batch])


@dataclass(slots=True)
class _CommandHistory:
    """The content of earlier commands, those of this batch included."""

    contents: dict[tuple[type[Command], UUID], bytes]
    credited: set[tuple[UUID | None, str]]

    def admit(self, command: Command) -> bytes | None:
        """The hash of a new command's content, or None for a repetition. Raises if it contradicts an earlier one."""
        id_ = command.grant_id if isinstance(command, GrantCredits) else command.clawback_id
        # Before the hash, which exists only for amounts that the database can store.
        domain.check_amount("command", id_, command.amount_credits)
        content = _content_hash(command)
        known = self.contents.get((type(command), id_))
        if known is None:
            self._credit_once(command)
            self.contents[type(command), id_] = content
            return content
        if known == content:
            return None
        raise ConflictingGrant(id_) if isinstance(command, GrantCredits) else ConflictingClawback(id_)

    def _credit_once(self, command: Command) -> None:
        if isinstance(command, GrantCredits) and command.payment_id and command.reason in ("purchase", "bonus"):
            if (command.payment_id, command.reason) in self.credited:
                raise PaymentAlreadyGranted(command.payment_id, command.reason)
            self.credited.add((command.payment_id, command.reason))


async def _read_history(connection: AsyncConnection, commands: Sequence[Command]) -> _CommandHistory:
    grants = [command for command in commands if isinstance(command, GrantCredits)]
    history = _CommandHistory({}, set())
    if grants:
        payments = [command.payment_id for command in grants if command.payment_id is not None]
        for key in await ledger.find_grant_keys(connection, [command.grant_id for command in grants], payments):
            history.contents[GrantCredits, key.grant_id] = key.content_hash
            history.credited.add((key.payment_id, key.reason))
    clawback_ids = [command.clawback_id for command in commands if isinstance(command, ClawBackCredits)]
    if clawback_ids:
        for clawback_id, content in (await ledger.find_clawback_hashes(connection, clawback_ids)).items():
            history.contents[ClawBackCredits, clawback_id] = content
    return history


async def expire_grants(tx: Transaction, user_ids: Sequence[UUID]) -> None:
    """Take away the remainders of these users' due grants."""
    accounts, book = await _open_accounts(tx, user_ids)
    await ledger.add_transfers(tx.connection, book, accounts.values())


async def _open_accounts(tx: Transaction, user_ids: Iterable[UUID]) -> tuple[dict[UUID, Account], Book]:
    """Lock the users (new ones too), read their grants, and expire the due ones."""
    accounts = await ledger.lock_users(tx.connection, user_ids, opening=True)
    now = await ledger.find_grants(tx.connection, accounts)
    return accounts, _open_book(tx, accounts, now)


def _open_book(tx: Transaction, accounts: dict[UUID, Account], now: datetime) -> Book:
    """Begin to write at ``now``: due grants expire before anything is decided."""
    book = Book(now, new_id)
    tx.after_commit(lambda: metrics.count_expired(book.transfers))
    for account in accounts.values():
        for expiry in domain.expire_due(book, account):
            event = CreditsExpired(
                grant_id=expiry.grant.grant_id,
                user_id=account.user_id,
                expired_credits=-expiry.line.available_delta_credits,
                lines=(expiry.line,),
            )
            tx.publish(event, correlation_id=expiry.grant.payment_id or expiry.grant.grant_id)
    return book


def _verdict_event(order: GenerationOrder, decision: Decision) -> CreditsReserved | CreditsRefused:
    if isinstance(decision, domain.Refusal):
        return _refused_event(decision)
    reservation, line = decision
    return CreditsReserved(reservation_id=reservation.reservation_id, order=order, line=line)


def _refused_event(refusal: domain.Refusal) -> CreditsRefused:
    return CreditsRefused(
        generation_id=refusal.generation_id,
        user_id=refusal.user_id,
        code=refusal.code,
        required_credits=refusal.order_credits,
        available_credits=refusal.available_credits,
        refused_at=refusal.refused_at,
    )


def _is_late(outcome: Outcome) -> bool:
    return isinstance(outcome, GenerationCompleted) and outcome.late


def _check_owners(messages: Sequence[Received[Outcome]], reservations: dict[UUID, Reservation]) -> None:
    for message in messages:
        reservation = reservations.get(message.payload.generation_id)
        if reservation is not None and reservation.user_id != message.payload.user_id:
            raise ForeignReservation(message.payload.generation_id, message.payload.user_id)


def _resolve(
    book: Book, account: Account, reservation: Reservation, outcome: Outcome
) -> tuple[domain.Resolution, CreditsCaptured | CreditsReleased]:
    if isinstance(outcome, GenerationCompleted):
        resolution, lines = domain.resolve(book, account, reservation, "captured", outcome.capture_credits)
        return resolution, CreditsCaptured(
            reservation_id=reservation.reservation_id,
            generation_id=reservation.generation_id,
            user_id=reservation.user_id,
            captured_credits=resolution.captured_credits,
            released_credits=resolution.released_credits,
            lines=lines,
        )
    resolution, lines = domain.resolve(book, account, reservation, "released", 0)
    return resolution, CreditsReleased(
        reservation_id=reservation.reservation_id,
        generation_id=reservation.generation_id,
        user_id=reservation.user_id,
        released_credits=resolution.released_credits,
        lines=lines,
    )


def _compare_with_resolution(reservation: Reservation, outcome: Outcome, contradictions: list[Contradiction]) -> None:
    """Compare a later outcome with the resolution. Raises ConflictingCapture for another price."""
    if isinstance(outcome, GenerationCompleted):
        if reservation.status == "released":
            contradictions.append(Contradiction("capture_after_release", outcome.generation_id))
        elif outcome.capture_credits != reservation.captured_credits:
            raise ConflictingCapture(reservation.generation_id, outcome.capture_credits, reservation.captured_credits)
    elif reservation.status == "captured":
        contradictions.append(Contradiction("release_after_capture", outcome.generation_id))


def _granted_event(command: GrantCredits, lines: tuple[LedgerLine, ...]) -> CreditsGranted:
    return CreditsGranted(
        grant_id=command.grant_id,
        user_id=command.user_id,
        amount_credits=command.amount_credits,
        payment_id=command.payment_id,
        lines=lines,
    )


def _clawed_back_event(clawback: domain.Clawback, line: LedgerLine) -> CreditsClawedBack:
    return CreditsClawedBack(
        clawback_id=clawback.clawback_id,
        user_id=clawback.user_id,
        payment_id=clawback.payment_id,
        clawed_back_credits=clawback.taken_credits,
        receivable_credits=clawback.receivable_credits,
        lines=(line,),
    )


def _content_hash(command: Command) -> bytes:
    """Identity of a command's content: a repetition has the same, another command under the same id has not.

    Over named fields, so that a field added to the contract later does not make old commands look changed.
    """
    fields: tuple[object, ...] = (command.user_id, command.payment_id, command.amount_credits, command.reason)
    if isinstance(command, GrantCredits):
        fields += (command.actor, command.expires_at)
    return hashlib.sha256(msgspec.json.encode((*fields, command.note))).digest()
