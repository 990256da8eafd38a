"""What generation does with the messages that it receives: early, late, repeated."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from contracts.generation import CancelGeneration
from contracts.storage import InputsRejected, InputsVerified, OutputMissing
from contracts.values import GenerationOrder
from generation.changes import Wakes
from generation.runpod_client import RunPodClient
from generation.sweeps import Sweeps
from tests.generation.bench import Bench, order, received


def cancel_of(order: GenerationOrder, user_id: UUID | None = None) -> CancelGeneration:
    return CancelGeneration(
        generation_id=order.generation_id, user_id=user_id or order.user_id, requested_at=datetime.now(UTC)
    )


def sweeps(bench: Bench) -> Sweeps:
    """Sweeps that have nothing to ask of a provider in these tests."""
    client: Any = RunPodClient.__new__(RunPodClient)
    return Sweeps(bench.transactions, client, bench.policy, 1.0, Wakes())


async def test_a_funded_order_is_queued_once_however_often_it_arrives(bench: Bench) -> None:
    one = order()
    for _ in range(3):
        await bench.enqueue(one, one)
    row = await bench.row(one.generation_id)
    assert (row.status, row.version, row.ready, row.endpoint) == ("queued", 1, True, "video")
    assert (row.expected_width_pixels, row.parameters["prompt"]) == (one.parameters["width"], "a lighthouse")
    assert await bench.announced(one.generation_id) == ["generation-queued"]
    assert await bench.counters() == (1, 0)


async def test_the_dispatcher_is_woken_when_the_order_is_committed(bench: Bench) -> None:
    await bench.enqueue(order())
    assert bench.wakes.dispatch.is_set()


async def test_an_order_that_the_catalogue_cannot_make_fails_and_its_credits_go_back(bench: Bench) -> None:
    unknown, invalid = order(), order()
    unknown = GenerationOrder(**{**_fields(unknown), "model_id": "no-such-model"})
    invalid = GenerationOrder(**{**_fields(invalid), "parameters": {"prompt": 7}})
    await bench.enqueue(unknown, order(), invalid)
    for one in (unknown, invalid):
        row = await bench.row(one.generation_id)
        assert (row.status, row.failure_code) == ("failed", "invalid_input")
        assert await bench.announced(one.generation_id) == ["generation-queued", "generation-failed"]


async def test_an_order_with_uploads_waits_until_they_are_verified(bench: Bench) -> None:
    user, upload = uuid4(), uuid4()
    one = order(
        "wan-2.2-i2v", user_id=user, uploads={"image": upload}, parameters={"prompt": "sea", "image": str(upload)}
    )
    await bench.enqueue(one)
    assert await bench.announced(one.generation_id) == ["generation-queued", "verify-inputs"]
    assert await bench.claim() == []
    verified = InputsVerified(generation_id=one.generation_id, user_id=user, object_keys={"image": f"{user}/{upload}"})
    for _ in range(2):
        await bench.deliver(bench.handlers.inputs_verified, verified)
    [claimed] = await bench.claim()
    assert claimed.input_object_keys == {"image": f"{user}/{upload}"}


async def test_unusable_uploads_fail_the_order(bench: Bench) -> None:
    upload = uuid4()
    one = order("wan-2.2-i2v", uploads={"image": upload}, parameters={"prompt": "sea", "image": str(upload)})
    await bench.enqueue(one)
    news = InputsRejected(
        generation_id=one.generation_id, user_id=one.user_id, parameter="image", code="undecodable", detail="no picture"
    )
    await bench.deliver(bench.handlers.inputs_rejected, news)
    row = await bench.row(one.generation_id)
    assert (row.status, row.failure_code) == ("failed", "invalid_input")


async def test_a_cancel_that_comes_before_its_order_is_kept_and_applied(bench: Bench) -> None:
    one = order()
    await bench.deliver(bench.handlers.cancel, cancel_of(one), cancel_of(one))
    await bench.enqueue(one)
    assert (await bench.row(one.generation_id)).status == "cancelled"
    assert await bench.announced(one.generation_id) == ["generation-queued", "generation-cancelled"]
    assert await bench.counters() == (0, 0)
    assert await bench.query("SELECT * FROM generation.cancellations") == []


async def test_a_cancel_and_its_order_that_commit_side_by_side_find_each_other(bench: Bench) -> None:
    one = order()
    async with bench.transactions.begin() as tx:
        await bench.handlers.cancel(tx, [received(cancel_of(one))])
        await bench.enqueue(one)
    assert (await bench.row(one.generation_id)).status == "queued"
    await sweeps(bench).keep_time()
    assert (await bench.row(one.generation_id)).status == "cancelled"


async def test_another_users_cancel_does_nothing_before_or_after_the_order(bench: Bench) -> None:
    one = order()
    await bench.deliver(bench.handlers.cancel, cancel_of(one, uuid4()))
    await bench.enqueue(one)
    await bench.deliver(bench.handlers.cancel, cancel_of(one, uuid4()))
    assert (await bench.row(one.generation_id)).status == "queued"


async def test_storages_news_of_an_order_that_is_not_known_yet_is_deferred(bench: Bench) -> None:
    news = OutputMissing(generation_id=uuid4(), user_id=uuid4(), sought_version=3)
    tx = await bench.deliver(bench.handlers.output_missing, news)
    assert len(tx.deferred) == 1


async def test_a_batch_of_many_orders_of_few_users_counts_right(bench: Bench) -> None:
    users = [uuid4() for _ in range(3)]
    await bench.enqueue(*(order(user_id=users[number % 3]) for number in range(60)))
    assert await bench.counters() == (60, 0)
    claimed = await bench.claim(100)
    assert await bench.counters() == (60 - len(claimed), len(claimed))


def _fields(order: GenerationOrder) -> dict[str, Any]:
    return {name: getattr(order, name) for name in order.__struct_fields__}
