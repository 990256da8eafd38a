"""The mechanism itself, with a table of its own."""

import asyncio
import signal

from service_runtime.database import IDLE_IN_TRANSACTION_TIMEOUT_MS
from tests.messaging.leases.conformance import (
    START_SECONDS,
    LeaseConformance,
    LeaseHarness,
    LeaseRules,
    Step,
    is_frozen,
    others_complete_what_is_left,
)
from tests.messaging.leases.probe import ProbeCase, WrittenProbeCase
from tests.support import eventually

COMPLETING = Step("transaction.before_commit", concurrency=1)
"""The first transaction is that of a row's completion: a claim is one statement.

One at a time: a session that is frozen between the parts of one request is not idle, and ends with its transaction's
time. ``tests/service_runtime/integration/test_frozen_process.py`` freezes one there.
"""


class TestProbeLeases(LeaseConformance):
    """Claimed by a statement that is built."""

    case = ProbeCase

    async def test_a_worker_killed_before_its_commit_has_done_nothing(self, harness: LeaseHarness) -> None:
        await harness.add(3)
        first = await harness.process("first", COMPLETING)
        assert await asyncio.wait_for(first.wait(), START_SECONDS) == -signal.SIGKILL
        assert await harness.effects() == []
        await others_complete_what_is_left(harness)

    async def test_the_lock_of_a_worker_frozen_before_its_commit_ends_in_time(self, harness: LeaseHarness) -> None:
        await harness.add(3)
        first = await harness.process("first", COMPLETING, "=freeze")
        await eventually(lambda: is_frozen(first), timeout=START_SECONDS)
        await others_complete_what_is_left(harness, within_seconds=IDLE_IN_TRANSACTION_TIMEOUT_MS / 1000)
        before = await harness.effects()
        first.send_signal(signal.SIGCONT)
        await eventually(lambda: "leased_work_failed" in harness.log_of("first"))
        assert await harness.effects() == before


class TestWrittenProbeLeases(LeaseRules):
    """Claimed by a statement that is written as text."""

    case = WrittenProbeCase
