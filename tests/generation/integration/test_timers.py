"""Nothing waits for ever: leases, silence, backoffs, deadlines, and dispatchers that come back from the dead."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from contracts.storage import OutputMissing
from generation.domain import provider_news
from generation.domain.order import Order, Policy
from generation.repository.orders import lock_orders, save_orders
from generation.repository.queue import ClaimedOrder
from generation.sweeps import Sweeps
from tests.generation.bench import Bench, order
from tests.generation.integration.test_handlers import sweeps
from tests.generation.provider import Say, answering, says, says_after
from tests.support.waiting import eventually


@pytest.fixture
async def claimed(bench: Bench) -> ClaimedOrder:
    await bench.enqueue(order())
    [one] = await bench.claim()
    return one


async def lease_ends(bench: Bench) -> None:
    await bench.execute("UPDATE generation.attempts SET check_at = clock_timestamp()")
    await sweeps(bench).check_attempts()


async def deadline_passes(bench: Bench, generation_id: UUID) -> None:
    await bench.execute(
        "UPDATE generation.video_generations SET deadline_at = clock_timestamp(), expires_at = clock_timestamp()"
        " WHERE generation_id = :id",
        id=generation_id,
    )
    await sweeps(bench).keep_time()


async def storage_finds_nothing(bench: Bench, generation_id: UUID) -> None:
    row = await bench.row(generation_id)
    news = OutputMissing(generation_id=generation_id, user_id=row.user_id, sought_version=row.sought_version)
    await bench.deliver(bench.handlers.output_missing, news)


async def record_answer(bench: Bench, claimed: ClaimedOrder, job_id: str) -> Order:
    """What a dispatcher writes when it has its answer, however late it comes."""
    async with bench.engine.begin() as connection:
        locked = await lock_orders(connection, [claimed.generation_id])
        one = locked.orders[claimed.generation_id]
        attempt = one.attempt(claimed.attempt_id)
        assert attempt is not None
        provider_news.submitted(one, attempt, claimed.fence_token, job_id, bench.policy, locked.now)
        one.events.clear()
        await save_orders(connection, locked)
    return one


async def test_a_dispatcher_that_died_leaves_an_attempt_that_is_sought_and_made_again(
    bench: Bench, claimed: ClaimedOrder
) -> None:
    await lease_ends(bench)
    [attempt] = await bench.attempts(claimed.generation_id)
    assert (attempt.status, attempt.fence_token) == ("unknown", 2)
    await lease_ends(bench)
    assert (await bench.announced(claimed.generation_id))[-1] == "output-sought"
    await storage_finds_nothing(bench, claimed.generation_id)
    assert await bench.claim() == [], "not before the backoff is over"
    await bench.execute("UPDATE generation.video_generations SET next_attempt_at = clock_timestamp()")
    await sweeps(bench).keep_time()
    [again] = await bench.claim()
    assert (again.generation_id, again.attempt_number) == (claimed.generation_id, 2)


async def test_a_zombie_dispatcher_cannot_bring_a_lost_attempt_back(bench: Bench, claimed: ClaimedOrder) -> None:
    await lease_ends(bench)
    await lease_ends(bench)
    one = await record_answer(bench, claimed, "zombie-job")
    assert one.attempts[0].status == "lost"
    assert one.attempts[0].cancel_due_at is not None, "its job is stopped instead"


async def test_a_slow_dispatcher_whose_lease_ended_still_tells_the_job_id(bench: Bench, claimed: ClaimedOrder) -> None:
    await lease_ends(bench)
    one = await record_answer(bench, claimed, "slow-job")
    assert (one.attempts[0].status, one.attempts[0].provider_job_id) == ("submitted", "slow-job")


async def test_two_sweepers_at_once_settle_each_attempt_once(bench: Bench) -> None:
    await bench.enqueue(*(order() for _ in range(30)))
    claimed = await bench.claim(30)
    await bench.execute("UPDATE generation.attempts SET status = 'unknown', check_at = clock_timestamp()")
    both = sweeps(bench)
    await asyncio.gather(both.check_attempts(), both.check_attempts())
    for one in claimed:
        assert (await bench.announced(one.generation_id)).count("output-sought") == 1


async def test_three_failed_attempts_fail_the_order_and_free_every_counter(bench: Bench) -> None:
    one = order()
    await bench.enqueue(one)
    for _ in range(3):
        await bench.execute("UPDATE generation.video_generations SET next_attempt_at = clock_timestamp()")
        await sweeps(bench).keep_time()
        assert len(await bench.claim()) == 1
        await lease_ends(bench)
        await lease_ends(bench)
        await storage_finds_nothing(bench, one.generation_id)
    row = await bench.row(one.generation_id)
    assert (row.status, row.failure_code, row.failures) == ("failed", "provider_unavailable", 3)
    assert await bench.counters() == (0, 0)
    assert (await bench.announced(one.generation_id))[-1] == "generation-failed"


async def test_an_order_that_was_never_served_fails_at_its_deadline(bench: Bench) -> None:
    one = order()
    await bench.enqueue(one)
    await deadline_passes(bench, one.generation_id)
    row = await bench.row(one.generation_id)
    assert (row.status, row.failure_code) == ("failed", "deadline_exceeded")
    assert await bench.counters() == (0, 0)


async def test_an_order_that_may_have_run_is_sought_at_its_deadline(bench: Bench, claimed: ClaimedOrder) -> None:
    await deadline_passes(bench, claimed.generation_id)
    assert (await bench.announced(claimed.generation_id))[-1] == "output-sought"
    await storage_finds_nothing(bench, claimed.generation_id)
    assert (await bench.row(claimed.generation_id)).failure_code == "deadline_exceeded"


async def test_a_search_that_storage_never_answers_ends_by_itself(bench: Bench, claimed: ClaimedOrder) -> None:
    await deadline_passes(bench, claimed.generation_id)
    await deadline_passes(bench, claimed.generation_id)
    assert (await bench.row(claimed.generation_id)).status == "failed"


async def test_timers_go_by_the_databases_clock(bench: Bench, claimed: ClaimedOrder) -> None:
    [attempt] = await bench.attempts(claimed.generation_id)
    [clock] = await bench.query("SELECT clock_timestamp() AS now")
    assert abs(attempt.check_at - clock.now - timedelta(seconds=30)) < timedelta(seconds=5)
    one = await record_answer(bench, claimed, "job-1")
    assert abs(one.attempts[0].check_at - clock.now - Policy().first_check) < timedelta(seconds=5)


@pytest.mark.parametrize(
    ("job_id", "answer"),
    [
        ("odd", says(b'{"status": "COMPLETED", "output": ' + b"[" * 100_000)),
        ("odd", says(b"this is no gzip", "content-encoding: gzip")),
        ("o\nd\nd", says(b"{}")),
    ],
)
async def test_a_job_that_cannot_be_asked_about_keeps_no_other_from_being_settled(
    bench: Bench, job_id: str, answer: Say
) -> None:
    await bench.enqueue(order(), order())
    odd, lost = await bench.claim()
    for one, job in ((odd, job_id), (lost, "lost")):
        await record_answer(bench, one, job)
    await bench.execute("UPDATE generation.attempts SET check_at = clock_timestamp()")
    async with answering() as (provider, client):
        provider.answers = {"/v2/video-id/status/odd": answer, "/v2/video-id/status/lost": says(b"", status="404 No")}
        await Sweeps(bench.transactions, client, bench.policy, 1.0, bench.wakes).check_attempts()
    assert [one.status for one in await bench.attempts(lost.generation_id)] == ["lost"]
    assert [one.status for one in await bench.attempts(odd.generation_id)] == ["submitted"]


async def test_an_endpoint_that_does_not_answer_keeps_no_other_from_being_settled(bench: Bench) -> None:
    await bench.enqueue(order(), order("flux-schnell"))
    [silent], [lost] = await bench.claim(endpoint="video"), await bench.claim(endpoint="image")
    for one in (silent, lost):
        await record_answer(bench, one, "job")
    await bench.execute("UPDATE generation.attempts SET check_at = clock_timestamp()")

    async def settled() -> bool:
        return [one.status for one in await bench.attempts(lost.generation_id)] == ["lost"]

    late = asyncio.Event()
    async with answering() as (provider, client):
        provider.answers["/v2/video-id/status/job"] = says_after(late, b'{"status": "IN_QUEUE"}')
        provider.answers["/v2/image-id/status/job"] = says(b"", status="404 Not Found")
        looking = asyncio.create_task(
            Sweeps(bench.transactions, client, bench.policy, 1.0, bench.wakes).check_attempts()
        )
        try:
            await eventually(settled, what="the lost job is settled while the other endpoint is waited for")
            assert not looking.done()
        finally:
            late.set()
            await looking
