"""From commit to the broker: nothing uncommitted, nothing skipped, nothing in the way of others."""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import nats.js.errors
import pytest
from nats.aio.msg import Msg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from contracts import headers
from contracts.billing import CreditsRefused, GrantCredits
from contracts.generation import GenerationCancelled, GenerationQueued
from contracts.streams import BY_NAME
from messaging import relay
from messaging.consumers import Subscription
from messaging.dead_letters import DeadLetters
from messaging.errors import ForeignSubjectError, MessageTooLargeError
from messaging.ids import new_id
from messaging.outbox import Writes
from messaging.publisher import PubAck, Publisher
from messaging.transaction import FRESH_MESSAGES, HEADER_BYTES, Transactions
from tests.messaging.integration.conftest import MessagingHarness
from tests.messaging.integration.effects import (
    execute,
    expect_effects,
    expect_published,
    grant,
    publish_refused,
    record,
    record_in_billing,
    refused,
    scalar,
    unpublished,
)
from tests.support import eventually
from tests.support.components import running


async def stored(harness: MessagingHarness, stream: str = "BILLING") -> int:
    """How many messages the stream holds."""
    jetstream = (await harness.admin()).jetstream()
    return int((await jetstream.stream_info(stream)).state.messages)


async def test_what_commits_is_published_and_takes_effect_once(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])

    ids = await publish_refused(billing.transactions, 1250)

    await expect_effects(harness.engine("gateway"), ids)
    await expect_published(harness.engine("billing"))
    assert await stored(harness) == len(ids)


async def test_a_transaction_that_fails_publishes_nothing(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")

    with pytest.raises(RuntimeError, match="changed my mind"):
        await publish_and_fail(billing.transactions)
    ids = await publish_refused(billing.transactions, 1)

    await expect_published(harness.engine("billing"))
    assert await stored(harness) == len(ids)


NUMBER = Writes("one AS (SELECT CAST(:number AS integer) AS number)", "(SELECT number FROM one)")

DIVIDED = Writes("one AS (SELECT 1 / CAST(:by AS integer) AS number)", "(SELECT number FROM one)")


async def test_messages_that_leave_with_what_is_written_are_published_once(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])

    async with billing.transactions.begin() as tx:
        before = tx.publish(refused(1), correlation_id=new_id())
        assert await tx.write(NUMBER, {"number": 7}) == [7]
        assert await tx.write(NUMBER, {"number": 8}) == [8]
        after = tx.publish(refused(2), correlation_id=new_id())
        assert [one.message_id for one in tx.outgoing] == [before, after]

    await expect_effects(harness.engine("gateway"), [before, after])
    await expect_published(harness.engine("billing"))
    assert await stored(harness) == 2


async def test_what_is_written_last_is_sent_with_all_messages_and_tells_its_result(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])
    results: list[object] = []
    async with billing.transactions.begin() as tx:
        first = tx.publish(refused(1), correlation_id=new_id())
        await tx.write_last(NUMBER, {"number": 7}, lambda result: results.append(*result))
        second = tx.publish(refused(2), correlation_id=new_id())
    assert results == [7]
    async with billing.transactions.begin() as tx:
        await tx.write_last(NUMBER, {"number": 8}, lambda result: results.append(*result))
        await tx.write_last(NUMBER, {"number": 9}, lambda result: results.append(*result))
        tx.after_commit(lambda: results.append("committed"))
        assert results == [7]
    assert results == [7, 8, 9, "committed"]
    await expect_effects(harness.engine("gateway"), [first, second])
    await expect_published(harness.engine("billing"))


async def test_a_statement_may_say_of_whom_messages_are_published(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])
    wanted, other = new_id(), new_id()
    announcing = Writes(
        "one AS (SELECT CAST(:wanted AS uuid) AS wanted)",
        "(SELECT wanted FROM one)",
        when="message.correlation_id IN (SELECT wanted FROM one)",
    )
    results: list[object] = []
    async with billing.transactions.begin() as tx:
        tx.publish(refused(1), correlation_id=other)
        kept = tx.publish(refused(2), correlation_id=wanted)
        await tx.write_last(announcing, {"wanted": wanted}, results.extend)
    assert results == [wanted]
    assert [message.message_id for message in tx.outgoing] == [kept]
    async with billing.transactions.begin() as tx:
        assert await tx.write(announcing, {"wanted": wanted}) == [wanted]
    await expect_effects(harness.engine("gateway"), [kept])
    await expect_published(harness.engine("billing"))
    assert await stored(harness) == 1


async def test_what_waits_for_a_failure_is_told_of_it_and_of_no_commit(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    told: list[str] = []
    async with billing.transactions.begin() as tx:
        tx.unless_committed(lambda: told.append("committed"))
    with pytest.raises(RuntimeError, match="my mind"):
        await write_and_fail(billing.transactions, lambda: told.append("failed"), NUMBER, {"number": 7}, "my mind")
    with pytest.raises(DBAPIError, match="division by zero"):
        await write_and_fail(billing.transactions, lambda: told.append("refused"), DIVIDED, {"by": 0}, None)
    assert told == ["failed", "refused"]
    assert await scalar(harness.engine("billing"), "SELECT 1") == 1


async def test_messages_are_dropped_where_what_they_announce_was_not_written(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    if_even = Writes(NUMBER.parts, NUMBER.result, when="(SELECT number % 2 = 0 FROM one)")
    for number in (7, 8):
        async with billing.transactions.begin() as tx:
            tx.publish(refused(number), correlation_id=new_id())
            assert await tx.write(if_even, {"number": number}) == [number]
            assert len(tx.outgoing) == (number == 8)
            tx.publish(refused(10 * number), correlation_id=new_id())
    await expect_published(harness.engine("billing"))
    assert await stored(harness) == 3


async def test_messages_do_not_give_their_values_to_what_is_written_with_them(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    subjects = Writes("one AS (SELECT CAST(:subjects AS text[]) AS subjects)", "(SELECT subjects FROM one)")
    async with billing.transactions.begin() as tx:
        assert await tx.write(subjects, {"subjects": ["mine"]}) == [["mine"]]
        tx.publish(refused(1), correlation_id=new_id())
        with pytest.raises(ValueError, match="subjects"):
            await tx.write(subjects, {"subjects": ["mine"]})


async def test_a_late_commit_with_a_smaller_id_is_not_skipped(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])
    engine = harness.engine("gateway")

    async with billing.transactions.begin() as slow:
        early_id = slow.publish(refused(1), correlation_id=new_id())
        later = await publish_refused(billing.transactions, 1)
        await expect_effects(engine, later)
        assert early_id < later[0]

    await expect_effects(engine, [early_id, *later])


async def test_two_relays_at_once_publish_each_message_once(harness: MessagingHarness) -> None:
    quiet = Transactions(harness.engine("billing"), "billing")
    for start in range(0, 3000, 100):
        await publish_refused(quiet, 100, start)
    # Counted on the wire: the stream would drop what comes twice.
    sent: Counter[str] = Counter()

    async def count(message: Msg) -> None:
        sent[(message.headers or {})[headers.MESSAGE_ID]] += 1

    admin = await harness.admin()
    await admin.subscribe(CreditsRefused.subject, cb=count)
    await admin.flush()

    await harness.start("billing")
    await harness.start("billing")

    await expect_published(harness.engine("billing"))
    assert await stored(harness) == 3000
    await eventually(lambda: len(sent) == 3000)
    assert set(sent.values()) == {1}


@pytest.mark.parametrize("place", ["relay.after_lock", "relay.after_publish", "relay.before_commit"])
async def test_a_relay_killed_before_it_marks_loses_and_repeats_nothing(harness: MessagingHarness, place: str) -> None:
    doomed = await harness.process("billing", failpoints=place)
    ids = await publish_refused(Transactions(harness.engine("billing"), "billing"), 100)
    assert await doomed.wait() == -9
    assert await unpublished(harness.engine("billing")) == 100

    await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])

    await expect_effects(harness.engine("gateway"), ids)
    await expect_published(harness.engine("billing"))


async def test_a_relay_killed_after_it_marks_repeats_nothing(harness: MessagingHarness) -> None:
    doomed = await harness.process("billing", failpoints="relay.after_commit")
    ids = await publish_refused(Transactions(harness.engine("billing"), "billing"), 100)
    assert await doomed.wait() == -9
    assert await unpublished(harness.engine("billing")) == 0

    await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])

    await expect_effects(harness.engine("gateway"), ids)
    assert await stored(harness) == 100


async def test_a_process_killed_before_its_commit_announces_nothing(harness: MessagingHarness) -> None:
    doomed = await harness.process("billing", failpoints="transaction.before_commit", messages=100)
    assert await doomed.wait() == -9
    assert await scalar(harness.engine("billing"), "SELECT count(*) FROM billing.outbox_messages") == 0


@pytest.mark.parametrize("place", ["transaction.after_commit", "relay.after_publish", "relay.before_mark"])
async def test_a_process_killed_after_its_commit_leaves_its_messages_to_the_next(
    harness: MessagingHarness, place: str
) -> None:
    doomed = await harness.process("billing", failpoints=place, messages=100)
    assert await doomed.wait() == -9
    assert await unpublished(harness.engine("billing")) == 100

    await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])

    await expect_published(harness.engine("billing"))
    assert await stored(harness) == 100
    query = "SELECT count(DISTINCT message_id) FROM gateway.effects"
    await eventually(lambda: _is(harness, query, 100))
    assert await scalar(harness.engine("gateway"), "SELECT count(*) FROM gateway.effects") == 100


async def _is(harness: MessagingHarness, query: str, count: int) -> bool:
    return bool(await scalar(harness.engine("gateway"), query) == count)


async def test_a_transaction_that_fails_at_its_commit_publishes_nothing(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    engine = harness.engine("billing")
    async with harness.database.superuser_engine().begin() as connection:
        once = "ALTER TABLE billing.effects ADD CONSTRAINT once UNIQUE (note) DEFERRABLE INITIALLY DEFERRED"
        await connection.execute(text(once))
    with pytest.raises(IntegrityError):
        await publish_and_fail_at_commit(billing.transactions)
    [kept] = await publish_refused(billing.transactions, 1)
    await expect_published(engine)
    message = await (await harness.admin()).jetstream().get_msg("BILLING", 1)
    assert (message.headers or {})[headers.MESSAGE_ID] == str(kept)
    assert await stored(harness) == 1


async def publish_and_fail_at_commit(transactions: Transactions) -> None:
    async with transactions.begin() as tx:
        await tx.connection.execute(text("INSERT INTO billing.effects (note) VALUES ('n'), ('n')"))
        tx.publish(refused(1), correlation_id=new_id())


async def test_an_answer_from_the_other_side_of_a_reconnect_counts_for_nothing(
    harness: MessagingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be that of another broker, which does not have what the first one acknowledged."""
    billing = harness.messaging("billing")
    await publish_refused(billing.transactions, 1)
    publish = Publisher.publish

    async def across(self: Publisher, *message: Any) -> "asyncio.Future[PubAck]":
        future = await publish(self, *message)
        billing.broker.epoch += 1
        return future

    monkeypatch.setattr(Publisher, "publish", across)
    async with billing.broker.open():
        assert await billing.relay.relay_batch() == (1, 0)
    assert await unpublished(harness.engine("billing")) == 1
    assert await stored(harness) == 1


async def test_a_stream_that_does_not_answer_is_left_alone_for_a_while(
    harness: MessagingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its rows would be claimed again and again, before those of streams that are well."""
    billing = harness.messaging("billing")
    await publish_refused(billing.transactions, 1)

    async def unanswered(*_: Any) -> "asyncio.Future[PubAck]":
        return asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Publisher, "publish", unanswered)
    monkeypatch.setattr(relay, "PUBLISH_TIMEOUT_SECONDS", 0.1)
    async with billing.broker.open():
        assert await billing.relay.relay_batch() == (1, 0)
        assert await billing.relay.relay_batch() == (0, 0)


async def test_a_checkpoint_is_no_younger_than_what_it_vouches_for(harness: MessagingHarness) -> None:
    """Recovery asks which checkpoints were verified before a lost batch was begun: too late a date hides a loss."""
    billing = harness.messaging("billing")
    await publish_refused(billing.transactions, 10)
    async with running(billing.components()):
        await expect_published(harness.engine("billing"))
    query = """
        SELECT count(*) FROM billing.relay_positions
        WHERE holder = 'relay' AND recorded_at <= (SELECT min(created_at) FROM billing.outbox_messages)
    """
    assert await scalar(harness.engine("billing"), query) == 1


async def test_what_does_not_fit_into_memory_is_found_in_the_outbox(harness: MessagingHarness) -> None:
    billing = harness.messaging("billing")
    for start in range(0, FRESH_MESSAGES + 500, 500):
        await publish_refused(billing.transactions, 500, start)
    async with running(billing.components()):
        await expect_published(harness.engine("billing"))
        assert await stored(harness) == FRESH_MESSAGES + 500


async def test_a_full_batch_of_marks_does_not_wait(harness: MessagingHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MARK_SECONDS", 3600.0)
    monkeypatch.setattr(relay, "GRACE_SECONDS", 3600.0)
    billing = await harness.start("billing")

    await publish_refused(billing.transactions, relay.BATCH_MESSAGES + 1)

    async def one_waits() -> bool:
        return await unpublished(harness.engine("billing")) == 1

    await eventually(one_waits, 20, "the marks of a full batch")


async def test_the_contracts_decide_who_may_publish_what(harness: MessagingHarness) -> None:
    payments = harness.messaging("payments")
    with pytest.raises(ForeignSubjectError, match="payments does not produce"):
        await publish_refused(payments.transactions, 1)
    assert await unpublished(harness.engine("payments"), "payments") == 0


async def test_the_broker_refuses_a_subject_of_another_service_and_others_pass(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    foreign = "gateway.event.generation-requested.v1"
    await insert(harness, subject=foreign, stream="GATEWAY")
    ids = await publish_refused(billing.transactions, 3)
    await harness.start("gateway", [Subscription(CreditsRefused, record)])

    await expect_effects(harness.engine("gateway"), ids)

    async def only_the_foreign_one_waits() -> bool:
        return await unpublished(harness.engine("billing")) == 1

    await eventually(only_the_foreign_one_waits)
    assert await stored(harness, "GATEWAY") == 0


async def test_a_message_that_is_too_large_is_refused_before_commit(harness: MessagingHarness) -> None:
    transactions = Transactions(harness.engine("payments"), "payments")
    huge = grant_with_note("x" * BY_NAME["BILLING"].max_message_bytes)
    async with transactions.begin() as tx:
        with pytest.raises(MessageTooLargeError):
            tx.publish(huge, correlation_id=new_id())
    assert await unpublished(harness.engine("payments"), "payments") == 0


async def test_the_largest_message_that_may_be_published_is_taken_with_its_headers(harness: MessagingHarness) -> None:
    payments = await harness.start("payments")
    await harness.start("billing", [Subscription(GrantCredits, record_in_billing)])
    room = BY_NAME["BILLING"].max_message_bytes - HEADER_BYTES - len(msgspec.json.encode(grant_with_note("")))
    async with payments.transactions.begin() as tx:
        largest = tx.publish(grant_with_note("x" * room), correlation_id=new_id())
        with pytest.raises(MessageTooLargeError):
            tx.publish(grant_with_note("x" * (room + 1)), correlation_id=new_id())

    await expect_effects(harness.engine("billing"), [largest], "billing")


async def test_a_message_that_the_broker_never_takes_becomes_a_dead_letter(harness: MessagingHarness) -> None:
    jetstream = (await harness.admin()).jetstream()
    billing = harness.messaging("billing")
    # The relay alone: the watch would end the process over a stream that is not as it should be.
    billing.lineage.trust()
    await harness.run([billing.relay])
    await harness.start("gateway", [Subscription(CreditsRefused, record)])
    too_long = await insert(harness, payload=b"x" * (BY_NAME["BILLING"].max_message_bytes + 1))
    beyond_the_connection = await insert(harness, payload=b"x" * 2_000_000)
    ids = await publish_refused(billing.transactions, 3)

    await expect_effects(harness.engine("gateway"), ids)
    await expect_published(harness.engine("billing"))
    query = "SELECT count(*) FROM billing.dead_letters WHERE consumer = 'relay' AND reason = 'rejected'"
    assert await scalar(harness.engine("billing"), query) == 2

    config = (await jetstream.stream_info("BILLING")).config
    await jetstream.update_stream(config, max_msg_size=2 * BY_NAME["BILLING"].max_message_bytes)
    async with billing.transactions.begin() as tx:
        letters = DeadLetters("billing")
        assert await letters.request_replay(tx.connection, [too_long]) == [too_long]

    async def stored_after_all() -> bool:
        return await stored(harness) == 4

    await eventually(stored_after_all)
    assert beyond_the_connection != too_long


async def test_a_full_stream_keeps_the_rows_until_there_is_room(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    await eventually_ready(billing)
    jetstream = (await harness.admin()).jetstream()
    config = (await jetstream.stream_info("BILLING")).config
    await jetstream.update_stream(config, max_bytes=1000)
    ids = await publish_refused(billing.transactions, 20)

    async def some_wait() -> bool:
        return 0 < await unpublished(harness.engine("billing")) < 20

    await eventually(some_wait)
    await jetstream.update_stream(config)

    await expect_published(harness.engine("billing"))
    assert await stored(harness) == len(ids)


async def test_the_last_room_of_a_stream_is_for_what_orders_wait_for(harness: MessagingHarness) -> None:
    """What only tells what happens meanwhile is held back, and comes when there is room again."""
    jetstream = (await harness.admin()).jetstream()
    for _ in range(20):
        await jetstream.publish("generation.event.filling.v1", b"x" * 10_000)
    info = await jetstream.stream_info("GENERATION")
    await jetstream.update_stream(info.config, max_bytes=round(info.state.bytes / 0.96))
    generation = await harness.start("generation")
    await eventually_ready(generation)

    async with generation.transactions.begin() as tx:
        order, user = new_id(), new_id()
        now = datetime.now(UTC)
        tx.publish(GenerationQueued(generation_id=order, user_id=user, version=1, lane="free"), correlation_id=order)
        tx.publish(
            GenerationCancelled(generation_id=order, user_id=user, version=2, cancelled_at=now), correlation_id=order
        )

    async def one_is_held_back() -> bool:
        return await unpublished(harness.engine("generation"), "generation") == 1

    await eventually(one_is_held_back)
    assert await stored(harness, "GENERATION") == 21
    last = await jetstream.get_last_msg("GENERATION", GenerationCancelled.subject)
    assert last.seq == 21

    await jetstream.update_stream(info.config)

    async def everything_came() -> bool:
        return await stored(harness, "GENERATION") == 22

    await eventually(everything_came, 30)


async def test_commands_wait_for_the_stream_of_their_receiver(harness: MessagingHarness) -> None:
    jetstream = (await harness.admin()).jetstream()
    await jetstream.delete_stream("BILLING")
    payments = await harness.start("payments")
    async with payments.transactions.begin() as tx:
        message_id = tx.publish(grant(), correlation_id=new_id())
    with pytest.raises(nats.js.errors.NotFoundError):
        await jetstream.stream_info("BILLING")

    await harness.start("billing", [Subscription(GrantCredits, record_in_billing)])
    await harness.provision()

    await expect_effects(harness.engine("billing"), [message_id], "billing")


async def test_every_message_carries_who_when_and_why(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    await eventually_ready(billing)
    client = await harness.admin()
    heard: asyncio.Queue[Any] = asyncio.Queue()
    await client.subscribe("billing.>", cb=heard.put)
    correlation = new_id()
    async with billing.transactions.begin() as tx:
        message_id = tx.publish(refused(), correlation_id=correlation)

    message = await asyncio.wait_for(heard.get(), 5)

    assert message.headers[headers.MESSAGE_ID] == str(message_id)
    assert message.headers[headers.CORRELATION_ID] == str(correlation)
    assert message.headers[headers.PRODUCER] == "billing"
    assert message.headers[headers.OCCURRED_AT].endswith("+00:00")
    assert headers.CAUSATION_ID not in message.headers


async def test_a_stopped_relay_leaves_its_rows_to_another(harness: MessagingHarness) -> None:
    first = harness.messaging("billing")
    async with running(first.components()):
        await eventually_ready(first)
    ids = await publish_refused(first.transactions, 5)
    await harness.start("billing")
    await expect_published(harness.engine("billing"))
    assert await stored(harness) == len(ids)


async def write_and_fail(
    transactions: Transactions, told: Callable[[], None], writes: Writes, values: dict[str, object], reason: str | None
) -> None:
    """A unit of work that ends badly, for a ``reason`` of its own or because of what it writes last."""
    async with transactions.begin() as tx:
        tx.unless_committed(told)
        await tx.write_last(writes, values)
        if reason is not None:
            raise RuntimeError(reason)


async def publish_and_fail(transactions: Transactions) -> None:
    """A unit of work that ends badly after it announced something."""
    async with transactions.begin() as tx:
        tx.publish(refused(), correlation_id=new_id())
        await tx.write(NUMBER, {"number": 7})
        tx.publish(refused(), correlation_id=new_id())
        raise RuntimeError("changed my mind")


async def eventually_ready(messaging: Any) -> None:
    """Wait until every readiness check passes."""

    async def ready() -> bool:
        for check in messaging.readiness().values():
            try:
                await check()
            except Exception as error:
                raise AssertionError(str(error)) from error
        return True

    await eventually(ready)


async def insert(
    harness: MessagingHarness, subject: str = CreditsRefused.subject, stream: str = "BILLING", payload: bytes = b"{}"
) -> UUID:
    """Write an outbox row past the checks of ``Transaction.publish``."""
    message_id = new_id()
    await execute(
        harness.engine("billing"),
        "INSERT INTO billing.outbox_messages (message_id, subject, stream, payload, correlation_id)"
        " VALUES (:message_id, :subject, :stream, :payload, :message_id)",
        message_id=message_id,
        subject=subject,
        stream=stream,
        payload=payload,
    )
    return message_id


def grant_with_note(note: str) -> GrantCredits:
    """A command with a note of any length."""
    return GrantCredits(
        grant_id=new_id(), user_id=new_id(), amount_credits=1, reason="purchase", actor="payments", note=note
    )
