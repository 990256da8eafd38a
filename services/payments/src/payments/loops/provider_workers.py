"""Everything that runs for one provider. Each provider has its own workers: one that hangs delays no other."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from messaging.leased_worker import LeasedWorker
from messaging.transaction import Transactions
from payments.domain.polling import NO_ANSWER
from payments.domain.records import PaymentRecord, RefundRecord, Sweep
from payments.domain.snapshots import ProviderEvent
from payments.handlers.provider_events import UNMATCHED
from payments.handlers.refunds import NOT_SENT
from payments.loops.event_matching import EventMatching
from payments.loops.payment_polls import PaymentPolls
from payments.loops.provider_calls import CALL_SECONDS
from payments.loops.reconciliation import FAILED_SWEEP, SWEEP_SECONDS, Reconciliation
from payments.loops.refund_sender import RefundSender
from payments.providers.interface import PaymentProvider
from payments.repository.leases import EVENTS, PAYMENTS, REFUNDS, SWEEPS, Claimed
from service_runtime.lifecycle import Component

AT_ONCE: Final = 8
"""Calls of one kind that one process makes to one provider at a time."""

WORK_SECONDS: Final = CALL_SECONDS + 30.0
"""One call, and the transactions before and after it."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """How often due work is looked for, and how often each sweep is made."""

    poll_seconds: float
    events: timedelta
    compare: timedelta


class ProviderWorkers:
    """The workers of one provider: polls, refunds, event matching and sweeps."""

    def __init__(self, transactions: Transactions, provider: PaymentProvider, intervals: Intervals) -> None:
        self._polls_due, self._events_due = asyncio.Event(), asyncio.Event()
        polls = PaymentPolls(transactions, provider)
        refunds = RefundSender(transactions, provider)
        matching = EventMatching(transactions, provider)
        sweeps = Reconciliation(transactions, provider, intervals.events, intervals.compare, self.wake)
        self.polls: LeasedWorker[Claimed[PaymentRecord]] = LeasedWorker(
            f"polls-{provider.name}",
            transactions,
            PAYMENTS,
            polls.claim,
            polls.work,
            concurrency=AT_ONCE,
            poll_seconds=intervals.poll_seconds,
            timeout_seconds=WORK_SECONDS,
            backoff=NO_ANSWER,
            wake=self._polls_due,
        )
        self.refunds: LeasedWorker[Claimed[RefundRecord]] = LeasedWorker(
            f"refunds-{provider.name}",
            transactions,
            REFUNDS,
            refunds.claim,
            refunds.work,
            concurrency=AT_ONCE,
            poll_seconds=intervals.poll_seconds,
            timeout_seconds=WORK_SECONDS,
            backoff=NOT_SENT,
        )
        self.events: LeasedWorker[Claimed[ProviderEvent]] = LeasedWorker(
            f"events-{provider.name}",
            transactions,
            EVENTS,
            matching.claim,
            matching.work,
            concurrency=AT_ONCE,
            poll_seconds=intervals.poll_seconds,
            timeout_seconds=WORK_SECONDS,
            backoff=UNMATCHED,
            wake=self._events_due,
        )
        self.sweeps: LeasedWorker[Claimed[Sweep]] = LeasedWorker(
            f"sweeps-{provider.name}",
            transactions,
            SWEEPS,
            sweeps.claim,
            sweeps.work,
            concurrency=2,
            poll_seconds=min(30.0, intervals.events.total_seconds()),
            timeout_seconds=SWEEP_SECONDS,
            backoff=FAILED_SWEEP,
        )

    def components(self) -> tuple[Component, ...]:
        """What has to run for as long as the service does."""
        return self.polls, self.refunds, self.events, self.sweeps

    def wake(self) -> None:
        """Something may be due now: claim at once."""
        self._polls_due.set()
        self._events_due.set()
