"""One order is sent to the database as parameters, and several as a JSON array: nothing may tell the two apart."""

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from generation.domain.order import Attempt, Lookup, Order
from generation.repository.orders import lock_orders, save_orders
from tests.generation.harness import GenerationHarness, order

CONSTANT = {"attempt_id", "attempt_number", "endpoint_id", "prepared_at", "sending_at"}


@pytest.mark.parametrize("together", [1, 2])
async def test_whatever_changed_of_orders_is_read_again(harness: GenerationHarness, together: int) -> None:
    await harness.enqueue(*(order() for _ in range(together)))
    ids = [claimed.generation_id for claimed in await harness.claim()]
    async with harness.transactions.begin() as tx:
        locked = await lock_orders(tx.connection, ids)
        for one in locked.orders.values():
            change_everything(one)
        await save_orders(tx, locked)
    assert await read(harness, ids) == list(locked.orders.values())
    assert len(ids) == together
    assert await harness.counters() == (0, 0)


@pytest.mark.parametrize("together", [1, 2])
async def test_what_is_unset_again_is_read_as_unset(harness: GenerationHarness, together: int) -> None:
    await harness.enqueue(*(order() for _ in range(together)))
    ids = [claimed.generation_id for claimed in await harness.claim()]
    before = await read(harness, ids)
    async with harness.transactions.begin() as tx:
        locked = await lock_orders(tx.connection, ids)
        for one in locked.orders.values():
            change_everything(one)
        await save_orders(tx, locked)
    async with harness.transactions.begin() as tx:
        locked = await lock_orders(tx.connection, ids)
        for number, one in enumerate(before):
            locked.orders[one.generation_id] = before[number]
        await save_orders(tx, locked)
    assert await read(harness, ids) == before
    assert await harness.counters() == (0, together)


async def read(harness: GenerationHarness, ids: Sequence[UUID]) -> list[Order]:
    async with harness.transactions.begin() as tx:
        return [(await lock_orders(tx.connection, [one])).orders[one] for one in sorted(ids)]


def change_everything(one: Order) -> None:
    """Give each column that may change another value."""
    later = one.deadline_at + timedelta(minutes=5, microseconds=3)
    one.status, one.version, one.failures = "completed", one.version + 7, 2
    one.inputs_ready, one.late = False, True
    one.next_attempt_at, one.deadline_at, one.finished_at = later, later, later
    one.verifying_number, one.asset_id = 1, uuid4()
    one.lookup = Lookup(3, "provider_unavailable", 'no "sign" of it', retry=True)
    one.failure_code, one.failure_detail = "output_rejected", "a file\nof ten bytes ☂"
    one.input_object_keys = {"image": "a/b"}
    [attempt] = one.attempts
    changed = replace(
        attempt,
        status="failed",
        failure_code="x",
        failure_detail="y",
        sha256="z",
        content_type="image/png",
        fence_token=9,
        provider_job_id="job",
        worker_id="worker",
        gpu_type="L4",
        check_at=later,
        submitted_at=later,
        started_at=later,
        ended_at=later,
        cancel_due_at=later,
        cancel_tries=4,
        size_bytes=2**40,
        execution_ms=5,
        report={"seed": 1, "nodes": ["a", None]},
        gpu_assumed=True,
        queue_ms=6,
        cold_start_ms=7,
        execution_assumed=False,
        cost_micro_usd=8,
    )
    unchanged = {
        field.name for field in fields(Attempt) if getattr(changed, field.name) == getattr(attempt, field.name)
    }
    assert unchanged == CONSTANT
    one.attempts[:] = [changed]
