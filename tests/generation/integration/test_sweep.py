"""One question finds everything that is due, and wakes the loop that it is for and no other."""

from collections.abc import Awaitable, Callable

import pytest

from contracts.generation import CancelGeneration
from generation.changes import save_changes
from generation.domain import provider_events
from generation.loops.sweep import Sweep
from generation.repository.callbacks import add_callback
from generation.repository.fair_queue import ClaimedOrder
from generation.repository.orders import lock_orders
from tests.generation.harness import GenerationHarness, order

AGAIN = "clock_timestamp() - interval '1 second'"


async def ready(harness: GenerationHarness) -> None:
    await harness.enqueue(order())


async def claimed(harness: GenerationHarness) -> ClaimedOrder:
    await harness.enqueue(order())
    [one] = await harness.claim()
    return one


async def callback(harness: GenerationHarness) -> None:
    attempt = await claimed(harness)
    async with harness.engine.begin() as connection:
        assert await add_callback(connection, attempt.attempt_id, "webhook", b"{}")


async def carrier(harness: GenerationHarness) -> None:
    await callback(harness)
    await harness.execute("UPDATE generation.provider_callbacks SET carries_file = true")


async def carrier_of_a_worker_that_died(harness: GenerationHarness) -> None:
    await carrier(harness)
    await harness.execute(f"UPDATE generation.provider_callbacks SET leased_until = {AGAIN}")


async def carrier_under_way(harness: GenerationHarness) -> None:
    await carrier(harness)
    await harness.execute("UPDATE generation.provider_callbacks SET leased_until = now() + interval '1 minute'")


async def check(harness: GenerationHarness) -> None:
    await claimed(harness)
    await harness.execute(f"UPDATE generation.attempts SET check_at = {AGAIN}")


async def cancel(harness: GenerationHarness) -> None:
    await claimed(harness)
    await harness.execute(f"UPDATE generation.attempts SET cancel_due_at = {AGAIN}, provider_job_id = 'job'")


async def overdue(harness: GenerationHarness) -> None:
    await claimed(harness)
    await harness.execute(f"UPDATE generation.video_generations SET deadline_at = {AGAIN}")


async def retry(harness: GenerationHarness) -> None:
    await harness.enqueue(order())
    await harness.execute(f"UPDATE generation.video_generations SET ready = false, next_attempt_at = {AGAIN}")
    await harness.execute("UPDATE generation.user_queues SET ready_count = 0")


async def early_cancel(harness: GenerationHarness) -> None:
    one = order()
    wanted = CancelGeneration(
        generation_id=one.generation_id, user_id=one.user_id, requested_at=one.requested_at, stop_running=True
    )
    await harness.deliver(harness.handlers.cancel, wanted)


async def end_attempt(harness: GenerationHarness, claimed: ClaimedOrder) -> None:
    async with harness.transactions.begin() as tx:
        locked = await lock_orders(tx.connection, [claimed.generation_id])
        one = locked.orders[claimed.generation_id]
        attempt = one.get_attempt(claimed.attempt_id)
        provider_events.rejected(one, attempt, claimed.fence_token, "no", harness.policy, locked.now)
        await save_changes(tx, locked, harness.wake_ups)


DUE: dict[str, tuple[Callable[[GenerationHarness], Awaitable[object]], set[str]]] = {
    "nothing": (claimed, set()),
    "an order to claim": (ready, {"dispatch"}),
    "a callback": (callback, {"callbacks"}),
    "a file to transfer": (carrier, {"file_transfers"}),
    "a file whose worker died": (carrier_of_a_worker_that_died, {"file_transfers"}),
    "a file under way": (carrier_under_way, set()),
    "an attempt to check": (check, {"checks"}),
    "a job to stop": (cancel, {"cancels"}),
    "a deadline": (overdue, {"timers"}),
    "a backoff that is over": (retry, {"timers"}),
    "a cancel before its order": (early_cancel, {"timers"}),
}


@pytest.mark.parametrize("due", DUE)
async def test_the_sweep_wakes_the_loop_that_has_something_to_do(harness: GenerationHarness, due: str) -> None:
    prepare, expected = DUE[due]
    await prepare(harness)
    wake_ups = harness.wake_ups
    names = ("dispatch", "callbacks", "file_transfers", "checks", "cancels", "timers")
    events = {name: getattr(wake_ups, name) for name in names}
    for event in events.values():
        event.clear()
    wake_ups.take_endpoints()
    await Sweep(harness.transactions, wake_ups).wake_due()
    assert {name for name, event in events.items() if event.is_set()} == expected
    assert wake_ups.take_endpoints() == ({"video"} if "dispatch" in expected else set())


async def test_the_end_of_an_attempt_wakes_the_dispatcher_only_for_an_order_that_waits(
    harness: GenerationHarness,
) -> None:
    first, second = await claimed(harness), await claimed(harness)
    harness.wake_ups.dispatch.clear()
    await end_attempt(harness, first)
    assert not harness.wake_ups.dispatch.is_set()
    await harness.enqueue(order())
    harness.wake_ups.dispatch.clear()
    await end_attempt(harness, second)
    assert harness.wake_ups.dispatch.is_set()
