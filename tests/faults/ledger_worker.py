"""The work of `tests.faults.ledger`: random batches against the ledger's handlers, repeated until they are known done.

A worker speaks to the handlers as a consumer does, with one transaction per batch. When its connection is cut it runs
the same batch again: it cannot know whether the commit happened, and must not need to.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import structlog
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from billing import handlers
from billing.repository import ledger
from contracts.message import Message
from messaging.errors import DatabaseUnavailableError
from service_runtime.database import engine_for
from tests.billing.ledger_harness import (
    Handler,
    LedgerHarness,
    cancelled,
    clawback,
    completed,
    failed,
    grant,
    lines_of,
    order,
)

BATCH: Final = 100
HOT_SHARE: Final = 0.1
"""The part of the batches that all meet on one account."""
REPEATED_SHARE: Final = 0.05
"""The part of the messages that arrives twice."""


@dataclass
class Orders:
    """Orders of all workers of one process, so that their outcomes are contested between workers."""

    open: list[tuple[UUID, UUID, int]] = field(default_factory=list)

    def take(self, chance: random.Random, count: int) -> list[tuple[UUID, UUID, int]]:
        """Some orders at random; every fifth stays, and gets a second, different outcome from somebody else."""
        chosen = chance.sample(self.open, min(count, len(self.open)))
        gone = {order[1] for order in chosen if chance.random() > 0.2}
        self.open = [order for order in self.open if order[1] not in gone]
        return chosen


@dataclass(frozen=True)
class Share:
    """What one process is asked to do."""

    dsn: str
    seed: int
    process: int
    workers: int
    all_workers: int
    transfers: int
    users: tuple[UUID, ...]


@dataclass
class Tally:
    """What one process did. ``retries`` are batches that were run again because a connection was cut."""

    transfers: int = 0
    batches: int = 0
    retries: int = 0


def work(share: Share) -> Tally:
    """Entry point of a process: ``share.workers`` workers until ``share.transfers`` transfers are written."""
    return asyncio.run(_work(share))


async def _work(share: Share) -> Tally:
    # Contradicting outcomes are what this is about; a warning for each would bury the result.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    engine = engine_for(share.dsn, application_name="faults-ledger-worker", pool_size=share.workers)
    tally, orders = Tally(), Orders()
    workers = [
        Worker(LedgerHarness(engine), random.Random(f"{share.seed}/{share.process}/{number}"), share, tally, orders)
        for number in range(share.workers)
    ]
    await asyncio.gather(*(worker.open_accounts(number) for number, worker in enumerate(workers)))
    await asyncio.gather(*(worker.run() for worker in workers))
    await engine.dispose()
    return tally


class Worker:
    """One connection's worth of load."""

    def __init__(
        self, ledger: LedgerHarness, chance: random.Random, share: Share, tally: Tally, orders: Orders
    ) -> None:
        self._ledger = ledger
        self._chance = chance
        self._share = share
        self._tally = tally
        self._orders = orders
        self._payments: list[tuple[UUID, UUID]] = []

    async def open_accounts(self, number: int) -> None:
        """Give this worker's share of the users something to spend."""
        first = self._share.process * self._share.workers + number
        mine = self._share.users[first :: self._share.all_workers]
        for start in range(0, len(mine), BATCH):
            await self._handle(handlers.apply_commands, [grant(user, 500) for user in mine[start : start + BATCH]])

    async def run(self) -> None:
        while self._tally.transfers < self._share.transfers:
            kinds = (self._grants, self._reservations, self._outcomes, self._clawbacks, self._expiry)
            (kind,) = self._chance.choices(kinds, weights=(20, 38, 36, 3, 3))
            handler, messages = kind()
            repeated = [message for message in messages if self._chance.random() < REPEATED_SHARE]
            await self._handle(handler, [*messages, *repeated])

    async def _handle(self, handler: Handler, messages: Sequence[Message]) -> None:
        while True:
            try:
                recording = await self._ledger.record(handler, *messages)
            except (IntegrityError, ProgrammingError):
                raise
            except (DBAPIError, DatabaseUnavailableError, OSError):
                self._tally.retries += 1
            else:
                self._tally.batches += 1
                self._tally.transfers += sum(len(lines_of(event)) for event in recording.published)
                self._ledger.lines.clear()
                return

    def _users(self) -> list[UUID]:
        """Whom a batch is about: some of many, or the one whose account is hot."""
        hot, *others = self._share.users
        return [hot] * BATCH if self._chance.random() < HOT_SHARE else self._chance.choices(others, k=BATCH)

    def _grants(self) -> tuple[Handler, list[Message]]:
        commands: list[Message] = []
        for user in self._users():
            amount = self._chance.randint(10, 200)
            if self._chance.random() < 0.5:
                payment = uuid4()
                self._payments = [*self._payments[-1_000:], (user, payment)]
                commands.append(grant(user, amount, "purchase", payment_id=payment))
            else:
                expires_at = datetime.now(UTC) + timedelta(seconds=self._chance.randint(1, 120))
                commands.append(grant(user, amount, "signup", expires_at=expires_at))
        return handlers.apply_commands, commands

    def _reservations(self) -> tuple[Handler, list[Message]]:
        requests = [order(user, self._chance.randint(1, 60)) for user in self._users()]
        for request in requests:
            placed = request.order
            self._orders.open.append((placed.user_id, placed.generation_id, placed.price_credits))
        return handlers.reserve, list(requests)

    def _outcomes(self) -> tuple[Handler, list[Message]]:
        outcomes: list[Message] = []
        for user, generation, price in self._orders.take(self._chance, BATCH):
            kind = self._chance.random()
            if kind < 0.5:
                outcomes.append(completed(user, generation, price))
            elif kind < 0.6:
                outcomes.append(completed(user, generation, price, late=True))
            else:
                outcomes.append(self._chance.choice((failed, cancelled))(user, generation))
        return handlers.resolve, outcomes

    def _clawbacks(self) -> tuple[Handler, list[Message]]:
        chosen = self._chance.sample(self._payments, min(5, len(self._payments)))
        return handlers.apply_commands, [
            clawback(user, self._chance.randint(1, 200), payment) for user, payment in chosen
        ]

    def _expiry(self) -> tuple[Handler, list[Message]]:
        return _sweep, []


async def _sweep(transaction: Any, _: Any) -> None:
    user_ids = await ledger.find_users_with_due_grants(transaction.connection, BATCH, [])
    if user_ids:
        await handlers.expire_grants(transaction, user_ids)
