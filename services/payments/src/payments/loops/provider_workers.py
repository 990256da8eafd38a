"""Everything that runs for one provider. Each provider has its own workers: one that hangs delays no other."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.leased_worker import LeasedWorker
from messaging.leases import LeasedTable
from messaging.transaction import Transactions
from payments.domain.polling import NO_ANSWER
from payments.handlers.provider_events import UNMATCHED
from payments.handlers.refunds import NOT_SENT
from payments.loops.event_matching import EventMatching
from payments.loops.payment_polls import PaymentPolls
from payments.loops.provider_calls import CALL_SECONDS
from payments.loops.reconciliation import FAILED_SWEEP, SWEEP_SECONDS, Reconciliation
from payments.loops.refund_sender import RefundSender
from payments.providers.interface import PaymentProvider
from payments.repository.leases import EVENTS, PAYMENTS, REFUNDS, SWEEPS, Claimed
from payments.wake_ups import WakeUps
from service_runtime.backoff import Backoff
from service_runtime.lifecycle import Component
from service_runtime.tracing import Origin

AT_ONCE: Final = 8
"""Calls of one kind that one process makes to one provider at a time."""

WORK_SECONDS: Final = CALL_SECONDS + 30.0
"""One call, and the transactions before and after it."""

SWEEPS_AT_ONCE: Final = 2
"""There are two: the long comparison does not delay the events."""

LONGEST_SWEEP_POLL_SECONDS: Final = 30.0

SELDOM: Final = 10
"""So many polls apart the workers look by themselves that ``loops.due_work`` wakes."""

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Intervals:
    """How often due work is looked for, and how often each sweep is made."""

    poll_seconds: float
    events: timedelta
    compare: timedelta


class LeasedWork(Protocol[Row]):
    """One kind of work at one provider."""

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[Claimed[Row]]:
        """Claim up to ``room`` due rows."""

    async def work(self, claimed: Claimed[Row]) -> None:
        """Work on one row, and end its claim."""


class ProviderWorkers:
    """The workers of one provider: polls, refunds, event matching and sweeps."""

    def __init__(
        self, transactions: Transactions, provider: PaymentProvider, intervals: Intervals, wake_ups: WakeUps
    ) -> None:
        def calling(
            kind: str,
            table: LeasedTable,
            work: LeasedWork[Row],
            backoff: Backoff,
            wake: asyncio.Event,
            origin: Callable[[Row], Origin] = lambda _: Origin(),
        ) -> LeasedWorker[Claimed[Row]]:
            return LeasedWorker(
                f"{kind}-{provider.name}",
                transactions,
                table,
                work.claim,
                work.work,
                concurrency=AT_ONCE,
                poll_seconds=intervals.poll_seconds * SELDOM,
                retry_seconds=intervals.poll_seconds,
                timeout_seconds=WORK_SECONDS,
                backoff=backoff,
                wake=wake,
                origin=lambda claimed: origin(claimed.row),
            )

        sweeps = Reconciliation(transactions, provider, intervals.events, intervals.compare, wake_ups)
        self.polls = calling(
            "polls",
            PAYMENTS,
            PaymentPolls(transactions, provider),
            NO_ANSWER,
            wake_ups.polls[provider.name],
            lambda payment: Origin(payment.traceparent, payment.payment_id, payment.user_id),
        )
        self.refunds = calling(
            "refunds",
            REFUNDS,
            RefundSender(transactions, provider),
            NOT_SENT,
            wake_ups.refunds[provider.name],
            lambda refund: Origin(correlation_id=refund.payment_id),
        )
        self.events = calling(
            "events", EVENTS, EventMatching(transactions, provider), UNMATCHED, wake_ups.events[provider.name]
        )
        self.sweeps = LeasedWorker(
            f"sweeps-{provider.name}",
            transactions,
            SWEEPS,
            sweeps.claim,
            sweeps.work,
            concurrency=SWEEPS_AT_ONCE,
            poll_seconds=min(LONGEST_SWEEP_POLL_SECONDS, intervals.events.total_seconds()),
            timeout_seconds=SWEEP_SECONDS,
            backoff=FAILED_SWEEP,
        )

    def components(self) -> tuple[Component, ...]:
        """What has to run for as long as the service does."""
        return self.polls, self.refunds, self.events, self.sweeps
