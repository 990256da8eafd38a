"""What generation does with the messages that it receives: early, late, repeated."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec

from contracts.generation import CancelGeneration
from contracts.storage import InputsRejected, InputsVerified, OutputMissing, VerifyInputs
from contracts.values import GenerationOrder
from generation.loops.timers import Timers
from tests.generation.harness import GenerationHarness, order, received


def cancel_of(order: GenerationOrder, user_id: UUID | None = None) -> CancelGeneration:
    return CancelGeneration(
        generation_id=order.generation_id, user_id=user_id or order.user_id, requested_at=datetime.now(UTC)
    )


def timers(harness: GenerationHarness) -> Timers:
    """The timers of one process."""
    return Timers(harness.transactions, harness.policy, 1.0, harness.wake_ups)


async def test_a_funded_order_is_queued_once_however_often_it_arrives(harness: GenerationHarness) -> None:
    one = order()
    for _ in range(3):
        await harness.enqueue(one, one)
    row = await harness.row(one.generation_id)
    assert (row.status, row.version, row.ready, row.endpoint) == ("queued", 1, True, "video")
    assert (row.expected_width_pixels, row.parameters["prompt"]) == (one.parameters["width"], "a lighthouse")
    assert await harness.announced(one.generation_id) == ["generation-queued"]
    assert await harness.counters() == (1, 0)


async def test_the_dispatcher_is_woken_when_the_order_is_committed(harness: GenerationHarness) -> None:
    one = order()
    await harness.enqueue(one)
    assert harness.wake_ups.dispatch.is_set()
    harness.wake_ups.dispatch.clear()
    await harness.enqueue(one)
    assert not harness.wake_ups.dispatch.is_set()


async def test_a_batch_announces_only_the_orders_that_are_new(harness: GenerationHarness) -> None:
    old, new = order(), order()
    await harness.enqueue(old)
    published = len(harness.transactions.fresh)
    await harness.enqueue(old, new)
    fresh = list(harness.transactions.fresh)[published:]
    assert [message.correlation_id for message in fresh] == [new.generation_id]
    assert await harness.announced(old.generation_id) == ["generation-queued"]
    assert await harness.announced(new.generation_id) == ["generation-queued"]


async def test_an_order_that_the_catalogue_cannot_make_fails_and_its_credits_go_back(
    harness: GenerationHarness,
) -> None:
    unknown, invalid = order(), order()
    unknown = GenerationOrder(**{**_fields(unknown), "model_id": "no-such-model"})
    invalid = GenerationOrder(**{**_fields(invalid), "parameters": {"prompt": 7}})
    await harness.enqueue(unknown, order(), invalid)
    for one in (unknown, invalid):
        row = await harness.row(one.generation_id)
        assert (row.status, row.failure_code) == ("failed", "invalid_input")
        assert await harness.announced(one.generation_id) == ["generation-queued", "generation-failed"]


async def test_an_order_with_uploads_waits_until_they_are_verified(harness: GenerationHarness) -> None:
    user, upload = uuid4(), uuid4()
    one = order(
        "wan-2.2-i2v", user_id=user, uploads={"image": upload}, parameters={"prompt": "sea", "image": str(upload)}
    )
    await harness.enqueue(one)
    assert await harness.announced(one.generation_id) == ["generation-queued", "verify-inputs"]
    assert await harness.claim() == []
    verified = InputsVerified(generation_id=one.generation_id, user_id=user, object_keys={"image": f"{user}/{upload}"})
    for _ in range(2):
        await harness.deliver(harness.handlers.inputs_verified, verified)
    [claimed] = await harness.claim()
    assert claimed.input_object_keys == {"image": f"{user}/{upload}"}


async def test_storage_is_told_which_uploads_must_be_clips(harness: GenerationHarness) -> None:
    for model_id, parameter, clips, duration_ms in (
        ("film-interpolation", "clip", ("clip",), 5000),
        ("wan-2.2-i2v", "image", (), None),
    ):
        upload = uuid4()
        words = {"prompt": "sea"} if parameter == "image" else {}
        one = order(model_id, uploads={parameter: upload}, parameters=words | {parameter: str(upload)})
        await harness.enqueue(one)
        [row] = await harness.query(
            "SELECT payload FROM generation.outbox_messages WHERE correlation_id = :id AND subject = :subject",
            id=one.generation_id,
            subject=VerifyInputs.subject,
        )
        told = msgspec.json.decode(row.payload, type=VerifyInputs)
        assert (told.clips, told.clip_duration_ms) == (clips, duration_ms)


async def test_unusable_uploads_fail_the_order(harness: GenerationHarness) -> None:
    upload = uuid4()
    one = order("wan-2.2-i2v", uploads={"image": upload}, parameters={"prompt": "sea", "image": str(upload)})
    await harness.enqueue(one)
    rejected = InputsRejected(
        generation_id=one.generation_id, user_id=one.user_id, parameter="image", code="undecodable", detail="no picture"
    )
    await harness.deliver(harness.handlers.inputs_rejected, rejected)
    row = await harness.row(one.generation_id)
    assert (row.status, row.failure_code) == ("failed", "invalid_input")


async def test_a_cancel_that_comes_before_its_order_is_kept_and_applied(harness: GenerationHarness) -> None:
    one = order()
    await harness.deliver(harness.handlers.cancel, cancel_of(one), cancel_of(one))
    await harness.enqueue(one)
    assert await harness.claim() == []
    assert harness.wake_ups.timers.is_set()
    await timers(harness).process_timers()
    assert await harness.status(one.generation_id) == "cancelled"
    assert await harness.announced(one.generation_id) == ["generation-queued", "generation-cancelled"]
    assert await harness.counters() == (0, 0)
    assert await harness.query("SELECT * FROM generation.cancellations") == []


async def test_a_cancel_and_its_order_that_commit_at_the_same_time_meet(harness: GenerationHarness) -> None:
    one = order()
    async with harness.transactions.begin() as tx:
        await harness.handlers.cancel(tx, [received(cancel_of(one))])
        await harness.enqueue(one)
    assert await harness.status(one.generation_id) == "queued"
    await timers(harness).process_timers()
    assert await harness.status(one.generation_id) == "cancelled"


async def test_another_users_cancel_does_nothing_before_or_after_the_order(harness: GenerationHarness) -> None:
    one = order()
    await harness.deliver(harness.handlers.cancel, cancel_of(one, uuid4()))
    await harness.enqueue(one)
    await harness.deliver(harness.handlers.cancel, cancel_of(one, uuid4()))
    await timers(harness).process_timers()
    assert await harness.status(one.generation_id) == "queued"
    assert len(await harness.claim()) == 1


async def test_a_message_about_an_order_that_is_not_known_yet_is_deferred(harness: GenerationHarness) -> None:
    missing = OutputMissing(generation_id=uuid4(), user_id=uuid4(), sought_version=3)
    tx = await harness.deliver(harness.handlers.output_missing, missing)
    assert len(tx.deferred) == 1


async def test_a_batch_of_many_orders_of_few_users_counts_right(harness: GenerationHarness) -> None:
    users = [uuid4() for _ in range(3)]
    await harness.enqueue(*(order(user_id=users[number % 3]) for number in range(60)))
    assert await harness.counters() == (60, 0)
    claimed = await harness.claim(100)
    assert await harness.counters() == (60 - len(claimed), len(claimed))


def _fields(order: GenerationOrder) -> dict[str, Any]:
    return {name: getattr(order, name) for name in order.__struct_fields__}
