"""Any interleaving of commands and outcomes, compared with a plain model of the ledger.

The model knows no SQL, no locks and no batches: a few dictionaries and the rules in words. Hypothesis drives both with
the same commands, each possibly repeated, on a real database, and looks for the shortest sequence in which they differ.

Every run of the tests tries the same few sequences; ``make faults-ledger`` tries many new ones.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from billing import conservation, domain, handlers
from billing.errors import LedgerError
from billing.repository import ledger as ledger_repository
from contracts.message import Message
from messaging.ids import new_id
from tests.billing.ledger_harness import LedgerHarness, cancelled, clawback, completed, failed, grant, order, variants
from tests.support.databases import DatabaseFactory

USERS = 2
AMOUNTS = st.integers(min_value=1, max_value=60)
WHO = st.integers(min_value=0, max_value=USERS - 1)
TIMES = st.integers(min_value=1, max_value=3)
FAR = timedelta(days=30)


@dataclass
class ModelGrant:
    """Credits that arrived together: the lowest ``rank`` is spent first."""

    rank: tuple[int, int, int]
    left: int
    payment: UUID | None = None
    due: bool = False


@dataclass
class ModelReservation:
    """Credits reserved for one generation in the model."""

    who: int
    parts: list[tuple[ModelGrant, int]]
    state: str = "held"
    captured: int = 0

    @property
    def amount(self) -> int:
        return sum(amount for _, amount in self.parts)


@dataclass
class ModelAccount:
    """One user's credits in the model."""

    credits: list[ModelGrant] = field(default_factory=list)
    held: int = 0
    owed: int = 0

    @property
    def available(self) -> int:
        return sum(credit.left for credit in self.credits)

    def take(self, amount: int, payment: UUID | None = None) -> list[tuple[ModelGrant, int]]:
        parts = []
        own_first = sorted(self.credits, key=lambda c: (payment is not None and c.payment != payment, c.rank))
        for credit in own_first:
            part = min(credit.left, amount)
            if part:
                credit.left -= part
                amount -= part
                parts.append((credit, part))
        return parts

    def expire_due(self) -> None:
        for credit in self.credits:
            if credit.due:
                credit.left = 0

    def pay_debt(self) -> None:
        paid = min(self.owed, self.available)
        self.take(paid)
        self.owed -= paid


class LedgerMachine(RuleBasedStateMachine):
    """Hypothesis drives; ``harness`` is set by the test."""

    harness: ClassVar["StatefulHarness"]

    reservations = Bundle("reservations")
    payments = Bundle("payments")
    commands = Bundle("commands")

    @initialize()
    def open(self) -> None:
        self.users = [uuid4() for _ in range(USERS)]
        self.accounts = [ModelAccount() for _ in range(USERS)]
        self.ledger = LedgerHarness(self.harness.engine)
        self.count = 0
        self.credits: dict[UUID, ModelGrant] = {}
        self.expiring: dict[UUID, ModelGrant] = {}
        self.model_reservations: dict[UUID, ModelReservation] = {}

    def send(self, handler: Any, message: Message, times: int) -> None:
        """Repeated within the batch: a repetition must change nothing."""
        self.harness.run(self.ledger.handle(handler, *[message] * times))

    def account_of(self, who: int) -> ModelAccount:
        account = self.accounts[who]
        account.expire_due()
        return account

    def add(
        self, who: int, grant_id: UUID, amount: int, kind: int, expiry: int, payment: UUID | None = None
    ) -> ModelGrant:
        self.count += 1
        account = self.account_of(who)
        credit = ModelGrant(rank=(kind, expiry, self.count), left=amount, payment=payment)
        account.credits.append(credit)
        self.credits[grant_id] = credit
        account.pay_debt()
        return credit

    @rule(target=commands, who=WHO, amount=AMOUNTS, days=st.none() | st.integers(1, 3), times=TIMES)
    def grant_promotion(self, who: int, amount: int, days: int | None, times: int) -> Any:
        # One base date for all, so that equal expiries tie and the order of arrival decides.
        expires_at = None if days is None else self.harness.start + FAR + timedelta(days=days)
        command = grant(self.users[who], amount, "signup", expires_at=expires_at)
        self.send(handlers.apply_commands, command, times)
        credit = self.add(who, command.grant_id, amount, 0, 99 if days is None else days)
        if days is not None:
            self.expiring[command.grant_id] = credit
        return handlers.apply_commands, command, who

    @rule(target=payments, who=WHO, amount=AMOUNTS, bonus=st.integers(0, 10), times=TIMES)
    def buy(self, who: int, amount: int, bonus: int, times: int) -> tuple[int, UUID, int]:
        payment = uuid4()
        bought = grant(self.users[who], amount, "purchase", payment_id=payment)
        self.send(handlers.apply_commands, bought, times)
        self.add(who, bought.grant_id, amount, 1, 99, payment)
        if bonus:
            given = grant(self.users[who], bonus, "bonus", payment_id=payment)
            self.send(handlers.apply_commands, given, times)
            self.add(who, given.grant_id, bonus, 0, 99, payment)
        return who, payment, amount + bonus

    @rule(target=reservations, who=WHO, price=AMOUNTS, count=st.sampled_from([1, 1, 3]), times=TIMES)
    def reserve(self, who: int, price: int, count: int, times: int) -> Any:
        ids = [new_id() for _ in range(count)]
        user = self.users[who]
        request = order(user, price, ids[0]) if count == 1 else variants(user, price, *ids)
        self.send(handlers.reserve, request, times)
        account = self.account_of(who)
        if account.owed or price * count > account.available:
            # Refused for good: the same order is refused again, even with more credits.
            self.harness.run(self.ledger.handle(handlers.reserve, request))
            return multiple()
        for generation_id in ids:
            self.model_reservations[generation_id] = ModelReservation(who, account.take(price))
            account.held += price
        return multiple(*ids)

    def resolve(self, generation: UUID, captured: int | None) -> None:
        reservation = self.model_reservations[generation]
        account = self.account_of(reservation.who)
        if reservation.state != "held":
            return
        reservation.state = "released" if captured is None else "captured"
        reservation.captured = captured or 0
        account.held -= reservation.amount
        charged = reservation.captured
        for credit, part in reservation.parts:
            kept = min(charged, part)
            charged -= kept
            credit.left += part - kept
        account.expire_due()
        account.pay_debt()

    @rule(generation=reservations, share=st.sampled_from([0, 30, 100]), late=st.booleans(), times=TIMES)
    def complete(self, generation: UUID, share: int, late: bool, times: int) -> None:
        reservation = self.model_reservations[generation]
        captured = reservation.amount * share // 100 if reservation.state != "captured" else reservation.captured
        self.send(handlers.resolve, completed(self.users[reservation.who], generation, captured, late=late), times)
        if not late:
            self.resolve(generation, captured)

    @rule(generation=reservations, how=st.sampled_from([failed, cancelled]), times=TIMES)
    def fail_or_cancel(self, generation: UUID, how: Any, times: int) -> None:
        self.send(handlers.resolve, how(self.users[self.model_reservations[generation].who], generation), times)
        self.resolve(generation, None)

    @rule(
        target=commands, payment=payments, share=st.sampled_from([10, 50, 100, 400]), dispute=st.booleans(), times=TIMES
    )
    def claw_back(self, payment: tuple[int, UUID, int], share: int, dispute: bool, times: int) -> Any:
        who, payment_id, bought = payment
        amount = max(1, bought * share // 100)
        command = clawback(self.users[who], amount, payment_id, "dispute" if dispute else "refund")
        self.send(handlers.apply_commands, command, times)
        account = self.account_of(who)
        taken = min(amount, account.available)
        account.take(taken, payment_id)
        account.owed += amount - taken
        return handlers.apply_commands, command, who

    @rule(target=commands, payment=payments, amount=AMOUNTS, won=st.booleans(), times=TIMES)
    def return_credits(self, payment: tuple[int, UUID, int], amount: int, won: bool, times: int) -> Any:
        who, payment_id, _ = payment
        reason = "dispute_won" if won else "refund_failed"
        command = grant(self.users[who], amount, reason, payment_id=payment_id)  # type: ignore[arg-type]
        self.send(handlers.apply_commands, command, times)
        self.add(who, command.grant_id, amount, 1, 99, payment_id)
        return handlers.apply_commands, command, who

    @rule(earlier=commands)
    def repeat_command(self, earlier: tuple[Any, Message, int]) -> None:
        handler, command, who = earlier
        self.send(handler, command, 1)
        self.account_of(who)

    @rule(data=st.data(), sweep=st.booleans())
    def time_passes(self, data: st.DataObject, sweep: bool) -> None:
        if self.expiring:
            grant_id = data.draw(st.sampled_from(list(self.expiring)))
            self.expiring.pop(grant_id).due = True
            self.harness.run(self.harness.make_due(grant_id))
        if sweep:
            self.harness.run(self.ledger.handle(_sweep))
            for account in self.accounts:
                account.expire_due()

    @invariant()
    def balances_are_those_of_the_model(self) -> None:
        for user, account in zip(self.users, self.accounts, strict=True):
            stored = self.harness.run(self.ledger.balance(user))
            assert stored == (account.available, account.held, account.owed)

    @invariant()
    def the_remainder_of_each_grant_is_that_of_the_model(self) -> None:
        stored = self.harness.run(self.harness.remainders(self.users))
        assert stored == {grant_id: credit.left for grant_id, credit in self.credits.items()}

    def teardown(self) -> None:
        assert self.harness.run(conservation.check(self.harness.engine)) == []
        for user in self.users:
            total = [0, 0, 0]
            for number, line in enumerate(self.ledger.lines.get(user, []), start=1):
                assert line.line_number == number
                total[0] += line.available_delta_credits
                total[1] += line.reserved_delta_credits
                total[2] += line.receivable_delta_credits
                after = (line.available_after_credits, line.reserved_after_credits, line.receivable_after_credits)
                assert tuple(total) == after


async def _sweep(transaction: Any, _: Any) -> None:
    user_ids = await ledger_repository.find_users_with_due_grants(transaction.connection, 100, [])
    if user_ids:
        await handlers.expire_grants(transaction, user_ids)


class StatefulHarness:
    """Drives a database in an event loop of its own, because Hypothesis calls the rules from outside a loop."""

    def __init__(self, factory: DatabaseFactory) -> None:
        self._runner = asyncio.Runner()
        self.start = datetime.now(UTC)
        self.database = self.run(factory.make(("billing",)))
        self.engine = self.database.engine("billing")
        self._superuser = self.database.superuser_engine()

    def run(self, step: Any) -> Any:
        return self._runner.run(step)

    async def remainders(self, users: list[UUID]) -> dict[UUID, int]:
        query = text("SELECT grant_id, remaining_credits FROM billing.grants WHERE user_id = ANY(:users)")
        async with self.engine.connect() as connection:
            rows = await connection.execute(query, {"users": users})
            return {row.grant_id: row.remaining_credits for row in rows}

    async def make_due(self, grant_id: UUID) -> None:
        """The clock cannot be moved, so the grant's expiry is moved into the past."""
        async with self._superuser.begin() as connection:
            await connection.execute(
                text("UPDATE billing.grants SET expires_at = expires_at - interval '40 days' WHERE grant_id = :id"),
                {"id": grant_id},
            )

    def close(self, factory: DatabaseFactory) -> None:
        self.run(self.database.dispose())
        self.run(factory.drop(self.database))
        self._runner.close()


def _run_machine(factory: DatabaseFactory, **options: Any) -> None:
    harness = StatefulHarness(factory)
    LedgerMachine.harness = harness
    try:
        run_state_machine_as_test(
            LedgerMachine,
            settings=settings(
                database=None,
                stateful_step_count=30,
                suppress_health_check=list(HealthCheck),
                **options,
            ),
        )
    finally:
        harness.close(factory)


@pytest.mark.timeout(600)
def test_any_interleaving_leaves_the_ledger_as_the_model_says(database_factory: DatabaseFactory) -> None:
    if settings.get_current_profile_name() == "campaign":
        _run_machine(database_factory)
    else:
        _run_machine(database_factory, max_examples=25, derandomize=True)


MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "debts are never settled": (domain, "_settle_receivable", lambda book, account, cause: []),
    "bought credits are spent first": (domain, "BOUGHT_REASONS", frozenset({"signup", "bonus", "goodwill"})),
    "a late completion is charged": (handlers, "_is_late", lambda outcome: False),
    "expired credits can be spent": (domain, "expire_due", lambda book, account: []),
    "every grant looks new": (handlers, "_content_hash", lambda command: uuid4().bytes * 2),
    "a partial capture gives nothing back": (domain, "_uncharged", lambda draws, captured: ()),
    "every reservation is held again": (domain, "resolved", lambda reservation, resolution: reservation),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_model_notices_when(
    mutant: str, database_factory: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    with pytest.raises((AssertionError, DBAPIError, LedgerError, ExceptionGroup)):
        _run_machine(database_factory, max_examples=120, derandomize=True, phases=[Phase.generate])
