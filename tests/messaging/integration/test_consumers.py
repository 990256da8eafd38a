"""Each message takes effect once, whatever its order, and poison harms nobody but itself."""

import asyncio
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import service_runtime.database
from contracts import headers
from contracts.billing import CreditsCaptured, CreditsRefused
from contracts.payments import PaymentRefused
from messaging import batches, consumers, dead_letters
from messaging.consumers import Subscription
from messaging.ids import new_id
from messaging.outbox import Writes
from messaging.received import Received
from messaging.runtime import Messaging
from messaging.transaction import Transaction
from tests.messaging.integration.conftest import MessagingHarness
from tests.messaging.integration.effects import (
    captured,
    effects,
    execute,
    expect_effects,
    expect_published,
    notes,
    payment_refused,
    publish_refused,
    record,
    refused,
    scalar,
)
from tests.support import eventually
from tests.support.components import running

DURABLE = "gateway-billing"
LOCK_NUMBER = text("SELECT pg_advisory_xact_lock(:number)")


class Poisoned(Exception):
    """What the handler says to a number that it cannot stand."""


class Handler:
    """Records effects, and refuses a whole call that contains one of ``poison``."""

    def __init__(self, poison: set[int] | None = None) -> None:
        self.poison = poison or set()
        self.calls = 0

    async def __call__(self, tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        self.calls += 1
        await record(tx, messages)
        for message in messages:
            if message.payload.required_credits in self.poison:
                raise Poisoned(message.payload.required_credits)


async def deliver_everything_again(client: Client) -> None:
    """Make the broker forget what the gateway has acknowledged."""
    await client.jetstream().reset_consumer("BILLING", DURABLE, seq=1)


async def all_acknowledged(client: Client) -> bool:
    """Whether the gateway's consumer owes the broker nothing."""
    info = await client.jetstream().consumer_info("BILLING", DURABLE)
    return bool(info.num_pending == 0 and info.num_ack_pending == 0)


async def store(client: Client, number: int, message_id: UUID | None = None, payload: bytes | None = None) -> UUID:
    """Put a message into billing's stream past the outbox, and past the broker's dedupe when it repeats an id."""
    from msgspec.json import encode

    chosen = message_id or new_id()
    await client.publish(
        CreditsRefused.subject,
        payload if payload is not None else encode(refused(number)),
        headers={
            headers.MESSAGE_ID: str(chosen),
            headers.CORRELATION_ID: str(chosen),
            headers.OCCURRED_AT: datetime.now(UTC).isoformat(),
            headers.PRODUCER: "billing",
        },
    )
    await client.flush()
    return chosen


async def test_redelivered_messages_take_effect_once(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])
    client = await harness.admin()
    ids = await publish_refused(billing.transactions, 300)
    await expect_effects(harness.engine("gateway"), ids)

    await deliver_everything_again(client)

    async def delivered_again() -> bool:
        info = await client.jetstream().consumer_info("BILLING", DURABLE)
        delivered = info.delivered
        return delivered is not None and delivered.consumer_seq >= 300 and info.num_ack_pending == 0

    await eventually(delivered_again)
    assert sorted(await effects(harness.engine("gateway"))) == sorted(ids)


async def test_a_message_stored_twice_takes_effect_once_even_within_one_batch(harness: MessagingHarness) -> None:
    client = await harness.admin()
    jetstream = client.jetstream()

    info = await jetstream.stream_info("BILLING")
    await jetstream.update_stream(info.config, duplicate_window=0.1)
    first = await store(client, 1)

    async def stored_again() -> bool:
        await store(client, 1, message_id=first)
        return int((await jetstream.stream_info("BILLING")).state.messages) >= 3

    await eventually(stored_again)
    await jetstream.update_stream(info.config)
    # Only now: the owner of a stream ends when it meets so short a memory.
    await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])

    await eventually(lambda: all_acknowledged(client))
    assert await effects(harness.engine("gateway")) == [first]


async def test_early_messages_are_delivered_again_until_their_time_has_come(harness: MessagingHarness) -> None:
    """Forty messages in random order, each of which must wait for the one before it."""

    async def in_order(tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        rows = await tx.connection.execute(text("SELECT count(*) FROM gateway.effects"))
        following = rows.scalar_one()
        for message in sorted(messages, key=lambda message: message.payload.required_credits):
            if message.payload.required_credits == following:
                await record(tx, [message])
                following += 1
            else:
                tx.defer(message, reason=f"waits for {following}")

    billing = await harness.start("billing")
    numbers = list(range(40))
    random.Random(2).shuffle(numbers)
    await harness.start("gateway", [Subscription(CreditsRefused, in_order)], max_deliveries=2)
    for number in numbers:
        async with billing.transactions.begin() as tx:
            tx.publish(refused(number), correlation_id=new_id())

    async def all_there() -> bool:
        return await notes(harness.engine("gateway")) == list(range(40))

    await eventually(all_there, timeout=40)
    assert await scalar(harness.engine("gateway"), "SELECT count(*) FROM gateway.dead_letters") == 0
    await eventually(lambda: nothing_outstanding(harness))


async def nothing_outstanding(harness: MessagingHarness) -> bool:
    """Whether no message is on record as deferred or failed."""
    return bool(await scalar(harness.engine("gateway"), "SELECT count(*) FROM gateway.delivery_attempts") == 0)


async def test_a_message_that_stays_early_too_long_is_dead_lettered(harness: MessagingHarness) -> None:
    async def never(tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        for message in messages:
            tx.defer(message, reason="its cause is unknown")

    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, never)])
    engine = harness.engine("gateway")
    await publish_refused(billing.transactions, 1)

    async def deferred() -> bool:
        return (
            await scalar(engine, "SELECT max(deferrals) FROM gateway.delivery_attempts WHERE failures = 0") is not None
        )

    await eventually(deferred)
    assert await scalar(engine, "SELECT count(*) FROM gateway.dead_letters") == 0
    await execute(engine, "UPDATE gateway.delivery_attempts SET first_at = now() - interval '61 minutes'")

    async def given_up() -> bool:
        return bool(
            await scalar(engine, "SELECT error FROM gateway.dead_letters") == "still early: its cause is unknown"
        )

    await eventually(given_up)


async def test_time_in_which_nothing_was_delivered_does_not_make_a_message_too_early(harness: MessagingHarness) -> None:
    async def never(tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        for message in messages:
            tx.defer(message, reason="its cause is unknown")

    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, never)])
    engine = harness.engine("gateway")
    await publish_refused(billing.transactions, 1)

    async def deferred(times: int) -> bool:
        return bool(
            (await scalar(engine, "SELECT coalesce(max(deferrals), 0) FROM gateway.delivery_attempts")) >= times
        )

    await eventually(lambda: deferred(1))
    outage = (
        "UPDATE gateway.delivery_attempts SET first_at = first_at - interval '2 h', last_at = last_at - interval '2 h'"
    )
    await execute(engine, outage)
    seen = await scalar(engine, "SELECT max(deferrals) FROM gateway.delivery_attempts")
    await eventually(lambda: deferred(seen + 2))
    assert await scalar(engine, "SELECT count(*) FROM gateway.dead_letters") == 0


async def test_a_replay_that_is_still_early_does_not_hold_up_the_others(harness: MessagingHarness) -> None:
    early = True

    async def sometimes(tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        for message in messages:
            if message.payload.required_credits == 0:
                tx.defer(message, reason="its cause is unknown")
            elif early:
                raise ValueError("a \0 poisoned text")
        await record(tx, [message for message in messages if message.payload.required_credits != 0])

    billing = await harness.start("billing")
    gateway = await harness.start("gateway", [Subscription(CreditsRefused, sometimes)], max_deliveries=1)
    engine = harness.engine("gateway")
    ids = await publish_refused(billing.transactions, 2)
    await eventually(lambda: nothing_but_dead(engine, 1))
    await execute(engine, "UPDATE gateway.delivery_attempts SET first_at = now() - interval '61 minutes'")
    await eventually(lambda: nothing_but_dead(engine, 2))
    early = False
    for message_id in ids:
        await ask_for_replay(gateway, message_id)
    await expect_effects(engine, [ids[1]])


async def nothing_but_dead(engine: AsyncEngine, count: int) -> bool:
    return bool(await scalar(engine, "SELECT count(*) FROM gateway.dead_letters") == count)


async def test_poison_in_a_batch_of_a_hundred_dies_alone_and_can_be_replayed(
    harness: MessagingHarness, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = Handler(poison={57})
    billing = await harness.start("billing")
    ids = await publish_refused(billing.transactions, 100)
    await expect_published(harness.engine("billing"))
    await harness.start("gateway", [Subscription(CreditsRefused, handler)], max_deliveries=2)
    engine = harness.engine("gateway")
    others = [message_id for number, message_id in enumerate(ids) if number != 57]

    async def ninety_nine() -> bool:
        return len(await effects(engine)) == 99

    await eventually(ninety_nine)
    assert sorted(await effects(engine)) == sorted(others)

    async def dead() -> bool:
        return bool(
            await scalar(engine, "SELECT message_id FROM gateway.dead_letters WHERE reason = 'poison'") == ids[57]
        )

    await eventually(dead)
    client = await harness.admin()
    await eventually(lambda: all_acknowledged(client))
    assert await command(harness, capsys, "list") == [str(ids[57])]

    handler.poison.clear()
    assert await command(harness, capsys, "replay", str(ids[57])) == [str(ids[57])]

    await expect_effects(engine, ids)

    async def off_the_list() -> bool:
        return await command(harness, capsys, "list") == []

    await eventually(off_the_list)
    assert await command(harness, capsys, "list", "--all") == [str(ids[57])]


async def test_a_replay_that_fails_stays_on_the_list_until_it_is_asked_for_again(
    harness: MessagingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The sweep of the relay finds what is asked for.
    monkeypatch.setattr(consumers, "REPLAY_POLL_SECONDS", 3600.0)
    handler = Handler(poison={0})
    billing = await harness.start("billing")
    gateway = await harness.start("gateway", [Subscription(CreditsRefused, handler)], max_deliveries=1)
    engine = harness.engine("gateway")
    [message_id] = await publish_refused(billing.transactions, 1)

    async def dead() -> bool:
        return bool(await scalar(engine, "SELECT count(*) FROM gateway.dead_letters") == 1)

    await eventually(dead)
    await ask_for_replay(gateway, message_id)

    async def failed_again() -> bool:
        query = "SELECT count(*) FROM gateway.dead_letters WHERE replay_failures = 1 AND replay_requested_at IS NULL"
        return bool(await scalar(engine, query) == 1)

    await eventually(failed_again)
    assert await effects(engine) == []
    handler.poison.clear()
    await ask_for_replay(gateway, message_id)
    await expect_effects(engine, [message_id])


async def test_a_replay_needs_no_broker(harness: MessagingHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "REPLAY_POLL_SECONDS", 0.1)
    handler = Handler(poison={0})
    billing = await harness.start("billing")
    gateway = await harness.start("gateway", [Subscription(CreditsRefused, handler)], max_deliveries=1)
    engine = harness.engine("gateway")
    [message_id] = await publish_refused(billing.transactions, 1)
    await eventually(lambda: nothing_but_dead(engine, 1))
    handler.poison.clear()
    await harness.nats_server.stop()
    await ask_for_replay(gateway, message_id)
    await expect_effects(engine, [message_id])


async def ask_for_replay(messaging: Messaging, message_id: UUID) -> None:
    """What the command does."""
    async with messaging.transactions.begin() as tx:
        await dead_letters.DeadLetters("gateway").request_replay(tx.connection, [message_id])


async def command(
    harness: MessagingHarness, capsys: pytest.CaptureFixture[str], name: str, *arguments: str
) -> list[str]:
    """Run the operator's command; returns the ids that it prints."""
    import json

    dsn = harness.database.dsn("gateway")
    capsys.readouterr()
    await asyncio.to_thread(dead_letters.main, [name, "--dsn", dsn, "--schema", "gateway", *arguments])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return [json.loads(line)["message_id"] for line in lines]


async def test_what_does_not_parse_is_dead_lettered_at_once(harness: MessagingHarness) -> None:
    await harness.start("billing")
    handler = Handler()
    await harness.start("gateway", [Subscription(CreditsRefused, handler)])
    client = await harness.admin()
    bad = await store(client, 1, payload=b'{"generation_id": 7}')
    await client.publish(CreditsRefused.subject, b"{}")
    good = await store(client, 2)
    engine = harness.engine("gateway")

    await expect_effects(engine, [good])

    async def both_dead() -> bool:
        return bool(await scalar(engine, "SELECT count(*) FROM gateway.dead_letters WHERE reason = 'undecodable'") == 2)

    await eventually(both_dead)
    assert await scalar(engine, "SELECT payload FROM gateway.dead_letters WHERE message_id = :id", id=bad)
    await eventually(lambda: all_acknowledged(client))


async def stored(harness: MessagingHarness, count: int) -> None:
    """Wait until billing's stream holds ``count`` messages, so that a consumer gets them all in its first batch."""
    jetstream = (await harness.admin()).jetstream()

    async def all_there() -> bool:
        return any(
            info.config.name == "BILLING" and info.state.messages == count for info in await jetstream.streams_info()
        )

    await eventually(all_there, what=f"{count} messages are stored")


@pytest.mark.parametrize("place", ["consumer.before_commit", "consumer.after_commit", "consumer.after_ack"])
async def test_a_consumer_killed_around_its_commit_loses_and_repeats_nothing(
    harness: MessagingHarness, place: str
) -> None:
    billing = await harness.start("billing")
    ids = await publish_refused(billing.transactions, 50)
    await stored(harness, 50)
    doomed = await harness.process("gateway", failpoints=place)
    assert await doomed.wait() == -9
    assert len(await effects(harness.engine("gateway"))) == (0 if place == "consumer.before_commit" else 50)

    await harness.start("gateway", [Subscription(CreditsRefused, record)], ack_wait_seconds=2)

    await expect_effects(harness.engine("gateway"), ids)
    client = await harness.admin()
    await eventually(lambda: all_acknowledged(client))
    assert sorted(await effects(harness.engine("gateway"))) == sorted(ids)


async def test_a_consumer_killed_while_it_dead_letters_does_so_once_later(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    await execute(harness.database.superuser_engine(), "ALTER TABLE gateway.effects ADD CHECK (note <> '7')")
    ids = await publish_refused(billing.transactions, 10)
    await stored(harness, 10)
    doomed = await harness.process("gateway", failpoints="consumer.before_dead_letter_commit", max_deliveries=1)
    assert await doomed.wait() == -9
    engine = harness.engine("gateway")
    assert await scalar(engine, "SELECT count(*) FROM gateway.dead_letters") == 0

    await harness.start("gateway", [Subscription(CreditsRefused, record)], max_deliveries=1, ack_wait_seconds=2)

    await eventually(lambda: nothing_but_dead(engine, 1))
    await expect_effects(engine, [message_id for number, message_id in enumerate(ids) if number != 7])
    assert await scalar(engine, "SELECT message_id FROM gateway.dead_letters WHERE reason = 'poison'") == ids[7]


async def test_losing_the_database_is_not_counted_against_the_message(harness: MessagingHarness) -> None:
    outages = 4

    async def loses_its_connection(tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        nonlocal outages
        await record(tx, messages)
        if outages:
            outages -= 1
            await tx.connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, loses_its_connection)], max_deliveries=1)

    ids = await publish_refused(billing.transactions, 10)

    await expect_effects(harness.engine("gateway"), ids)
    assert await scalar(harness.engine("gateway"), "SELECT count(*) FROM gateway.dead_letters") == 0
    assert outages == 0


async def test_a_database_that_takes_no_writes_for_a_while_costs_no_message(harness: MessagingHarness) -> None:
    outages = 4

    async def meets_a_read_only_database(tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        nonlocal outages
        if outages:
            outages -= 1
            await tx.connection.execute(text("SET LOCAL transaction_read_only = on"))
        await record(tx, messages)

    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, meets_a_read_only_database)], max_deliveries=1)

    ids = await publish_refused(billing.transactions, 10)

    await expect_effects(harness.engine("gateway"), ids)
    assert await scalar(harness.engine("gateway"), "SELECT count(*) FROM gateway.dead_letters") == 0
    assert outages == 0


async def test_locked_rows_delay_their_own_messages_and_no_other(
    harness: MessagingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_runtime.database, "LOCK_TIMEOUT_MS", 300)
    locked = [3, 17, 18, 31, 36, 39]

    async def locks_a_row_for_each(tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        for message in messages:
            await tx.connection.execute(LOCK_NUMBER, {"number": message.payload.required_credits})
        await record(tx, messages)

    billing = await harness.start("billing")
    engine = harness.engine("gateway")
    async with harness.database.superuser_engine().connect() as elsewhere:
        for number in locked:
            await elsewhere.execute(LOCK_NUMBER, {"number": number})
        await harness.start("gateway", [Subscription(CreditsRefused, locks_a_row_for_each)], max_deliveries=1)
        ids = await publish_refused(billing.transactions, 40)
        await expect_effects(engine, [message for number, message in enumerate(ids) if number not in locked])
        await elsewhere.rollback()

    await expect_effects(engine, ids)
    assert await scalar(engine, "SELECT count(*) FROM gateway.dead_letters") == 0
    assert await scalar(engine, "SELECT count(*) FROM gateway.delivery_attempts") == 0


@pytest.mark.parametrize("end", ["it fails", "another process has it"])
async def test_locks_are_waited_for_again_when_no_delayed_message_is_left(
    harness: MessagingHarness, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    if end == "another process has it":
        monkeypatch.setattr(batches, "_RETURN_SECONDS", 1.0, raising=False)
    patience: dict[UUID, str] = {}
    fails = False

    async def waits(tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        seconds = str(await tx.connection.scalar(text("SHOW lock_timeout")))
        patience.update(dict.fromkeys((message.message_id for message in messages), seconds))
        if messages[0].payload.required_credits == 0:
            if fails:
                raise Poisoned(0)
            await tx.connection.execute(text("SET LOCAL lock_timeout = '10ms'"))
            await tx.connection.execute(LOCK_NUMBER, {"number": 0})

    billing = await harness.start("billing")
    jetstream = (await harness.admin()).jetstream()

    async def is_patient() -> bool:
        [message] = await publish_refused(billing.transactions, 1, 1)
        await eventually(lambda: message in patience)
        return patience[message] == "5s"

    async with harness.database.superuser_engine().connect() as elsewhere:
        await elsewhere.execute(LOCK_NUMBER, {"number": 0})
        await harness.start("gateway", [Subscription(CreditsRefused, waits)], max_deliveries=1)
        # The second one keeps the checkpoint: the first can go without a trace.
        delayed, _ = await publish_refused(billing.transactions, 2)
        await eventually(lambda: patience.get(delayed) == "200ms", what="a second try of the message that is delayed")
        if end == "it fails":
            fails = True
        else:
            await jetstream.delete_msg("BILLING", 1)
        await eventually(is_patient)


async def test_work_that_an_overloaded_database_cancels_is_not_dead_lettered(harness: MessagingHarness) -> None:
    cancelled = 8

    async def takes_too_long(tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        nonlocal cancelled
        if cancelled:
            cancelled -= 1
            await tx.connection.execute(text("SET LOCAL statement_timeout = '10ms'"))
            await tx.connection.execute(text("SELECT pg_sleep(10)"))
        await record(tx, messages)

    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, takes_too_long)], max_deliveries=1)

    ids = await publish_refused(billing.transactions, 10)

    await expect_effects(harness.engine("gateway"), ids)
    assert await scalar(harness.engine("gateway"), "SELECT count(*) FROM gateway.dead_letters") == 0
    assert cancelled == 0


async def test_each_type_gets_one_call_with_its_messages_in_order(harness: MessagingHarness) -> None:
    calls: list[tuple[str, list[int]]] = []

    async def note(tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        calls.append(("refused", [message.payload.required_credits for message in messages]))

    async def note_captured(tx: Transaction, messages: Sequence[Received[CreditsCaptured]]) -> None:
        calls.append(("captured", [message.payload.captured_credits for message in messages]))

    billing = await harness.start("billing")
    async with billing.transactions.begin() as tx:
        for number in range(10):
            tx.publish(refused(number), correlation_id=new_id())
            tx.publish(captured(number), correlation_id=new_id())
    await expect_published(harness.engine("billing"))

    subscriptions = [Subscription(CreditsRefused, note), Subscription(CreditsCaptured, note_captured, inbox=False)]
    await harness.start("gateway", subscriptions)

    await eventually(lambda: sum(len(numbers) for _, numbers in calls) == 20)
    assert calls == [("refused", list(range(10))), ("captured", list(range(10)))]


async def test_a_checkpoint_is_written_with_what_a_handler_writes(harness: MessagingHarness) -> None:
    async def write(tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        await tx.write(Writes("one AS (SELECT 1 AS number)", "(SELECT number FROM one)"), {})

    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, write, inbox=False)])
    await publish_refused(billing.transactions, 3)
    highest = "SELECT max(sequence) FROM gateway.relay_positions WHERE holder = 'gateway-billing'"
    await eventually(lambda: holds(harness.engine("gateway"), highest, 3), what="the checkpoint of the last message")


async def holds(engine: AsyncEngine, query: str, value: object) -> bool:
    """Whether ``query`` gives that value."""
    return bool(await scalar(engine, query) == value)


async def test_an_answer_continues_the_correlation_of_its_cause(harness: MessagingHarness) -> None:
    async def answer(tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        tx.after_commit(lambda: heard.extend(messages))

    heard: list[Received[CreditsRefused]] = []
    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, answer)])
    correlation = new_id()
    async with billing.transactions.begin() as tx:
        message_id = tx.publish(refused(), correlation_id=correlation)
    await eventually(lambda: heard)
    assert (heard[0].message_id, heard[0].correlation_id, heard[0].deliveries) == (message_id, correlation, 1)

    async with billing.transactions.begin() as tx:
        tx.publish(refused(), cause=heard[0])
        row = tx.outgoing[0]
    assert (row.correlation_id, row.causation_id) == (correlation, message_id)


async def test_a_consumer_that_is_told_to_stop_finishes_its_batch(harness: MessagingHarness) -> None:
    begun = asyncio.Event()
    go_on = asyncio.Event()

    async def slow(tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        begun.set()
        await go_on.wait()
        await record(tx, messages)

    billing = await harness.start("billing")
    gateway = harness.messaging("gateway", [Subscription(CreditsRefused, slow)])
    ids = await publish_refused(billing.transactions, 3)
    await stored(harness, 3)
    async with running(gateway.components()) as tasks:
        await asyncio.wait_for(begun.wait(), 10)
        for _ in range(3):  # as a service does that is impatient
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=0.2)
        go_on.set()
    assert sorted(await effects(harness.engine("gateway"))) == sorted(ids)
    client = await harness.admin()
    await eventually(lambda: all_acknowledged(client))


async def test_a_handler_slower_than_the_ack_wait_is_not_disturbed(harness: MessagingHarness) -> None:
    calls = 0

    async def slow(tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        nonlocal calls
        calls += 1
        await tx.connection.execute(text("SELECT pg_sleep(2.5)"))
        await record(tx, messages)

    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, slow)], ack_wait_seconds=1)
    ids = await publish_refused(billing.transactions, 3)

    await expect_effects(harness.engine("gateway"), ids)
    client = await harness.admin()
    await eventually(lambda: all_acknowledged(client))
    info = await client.jetstream().consumer_info("BILLING", DURABLE)
    assert info.delivered.consumer_seq == 3

    # Nor is one that comes when nothing was left to say of what came before.
    quiet_until = time.monotonic() + 1.0
    await eventually(lambda: time.monotonic() > quiet_until)
    later = await publish_refused(billing.transactions, 1, 3)
    await expect_effects(harness.engine("gateway"), ids + later)
    await eventually(lambda: all_acknowledged(client))
    info = await client.jetstream().consumer_info("BILLING", DURABLE)
    assert info.delivered.consumer_seq == 4


async def test_message_types_that_share_a_handler_reach_it_together_and_in_order(harness: MessagingHarness) -> None:
    calls: list[list[str]] = []

    async def handle(tx: Transaction, messages: Sequence[Received[CreditsRefused | CreditsCaptured]]) -> None:
        await record(tx, messages)
        calls.append([type(message.payload).__name__ for message in messages])

    billing = await harness.start("billing")
    async with billing.transactions.begin() as tx:
        ids = [tx.publish(message, correlation_id=new_id()) for message in (refused(1), captured(), refused(2))]
    await expect_published(harness.engine("billing"))
    kinds = (CreditsRefused, CreditsCaptured)
    await harness.start("gateway", [Subscription(kind, handle, linger_seconds=0.5) for kind in kinds])
    await expect_effects(harness.engine("gateway"), ids)
    assert calls == [["CreditsRefused", "CreditsCaptured", "CreditsRefused"]]


async def test_what_has_arrived_of_another_stream_is_handled_first_and_does_not_linger(
    harness: MessagingHarness,
) -> None:
    order: list[str] = []

    async def handle(tx: Transaction, messages: Sequence[Received[CreditsRefused | PaymentRefused]]) -> None:
        order.extend(type(message.payload).__name__ for message in messages)
        await record(tx, messages)

    billing, payments = await harness.start("billing"), await harness.start("payments")
    await harness.start(
        "gateway",
        [
            Subscription(CreditsRefused, handle, linger_seconds=60.0),
            Subscription(PaymentRefused, handle, after=CreditsRefused),
        ],
    )
    ids = await publish_refused(billing.transactions, 1)
    await expect_effects(harness.engine("gateway"), ids)
    ids += await publish_refused(billing.transactions, 3, 1)
    client = await harness.admin()

    async def lingers() -> bool:
        info = await client.jetstream().consumer_info("BILLING", DURABLE)
        return bool(info.num_pending == 3 and info.num_ack_pending == 0)

    await eventually(lingers)
    assert order == ["CreditsRefused"]
    async with payments.transactions.begin() as tx:
        ids.append(tx.publish(payment_refused(), correlation_id=new_id()))
    await expect_effects(harness.engine("gateway"), ids)
    assert order == ["CreditsRefused"] * 4 + ["PaymentRefused"]

    # Nothing more has arrived there: nobody waits for it.
    async with payments.transactions.begin() as tx:
        ids.append(tx.publish(payment_refused(), correlation_id=new_id()))
    await expect_effects(harness.engine("gateway"), ids)


async def test_a_replica_that_lingers_asks_again_while_others_wait_for_all_that_there_is(
    harness: MessagingHarness,
) -> None:
    rebuilt = partial(REGISTRY.get_sample_value, "messaging_feed_rebuilds_total", {"consumer": DURABLE})
    before = rebuilt()
    await harness.change_consumer("gateway", "BILLING", max_ack_pending=1)
    client = await harness.admin()
    subject, inbox = f"$JS.API.CONSUMER.MSG.NEXT.BILLING.{DURABLE}", client.new_inbox()
    taken: list[Msg] = []

    async def take(message: Msg) -> None:
        taken.append(message)

    other = await client.subscribe(inbox, cb=take)
    await client.publish(subject, b'{"batch": 100, "expires": 60000000000}', inbox)
    billing = await harness.start("billing")
    ids = await publish_refused(billing.transactions, 3)
    await eventually(lambda: bool(taken))

    asked: list[Msg] = []

    async def note(message: Msg) -> None:
        asked.append(message)

    await client.subscribe(subject, cb=note)
    await client.flush()
    await harness.start("gateway", [Subscription(CreditsRefused, record, linger_seconds=0.1)])
    # A request that is refused is over: the next one comes after the linger time.
    await eventually(lambda: len(asked) >= 3)
    await other.unsubscribe()
    await taken[0].nak()
    await expect_effects(harness.engine("gateway"), ids)
    assert rebuilt() == before
