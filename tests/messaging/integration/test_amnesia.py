"""A broker that forgets: wiped, rolled back, killed. Nothing is lost, nothing happens twice, nobody is needed."""

import shutil
from pathlib import Path
from uuid import UUID

import pytest

from contracts.billing import CreditsRefused, GrantCredits
from contracts.permissions import verifier_name
from local_platform.servers import NatsServer
from messaging import amnesia
from messaging.consumers import Subscription
from messaging.ids import new_id
from messaging.runtime import Messaging
from tests.messaging.integration.conftest import MessagingHarness
from tests.messaging.integration.effects import (
    effects,
    execute,
    expect_effects,
    expect_published,
    grant,
    publish_refused,
    record,
    record_in_billing,
    scalar,
    unpublished,
)
from tests.support import eventually
from tests.support.components import running

RECOVERY_SECONDS = 40.0


async def line(harness: MessagingHarness) -> Messaging:
    """Billing that publishes and a gateway that listens."""
    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)], ack_wait_seconds=2)
    return billing


async def verified(harness: MessagingHarness, service: str = "billing") -> bool:
    """Whether the watch has compared everything that was published with the broker."""
    query = f"SELECT count(*) FILTER (WHERE verified_at IS NULL), count(*) FROM {service}.relay_positions"
    engine = harness.database.engine(service)
    waiting = await scalar(engine, query)
    return bool(waiting == 0 and await scalar(engine, f"SELECT count(*) FROM {service}.relay_positions") > 0)


async def forget_effects(harness: MessagingHarness) -> None:
    """Empty the table of effects and the inbox, so that only what the *broker* delivers again can fill it."""
    await execute(harness.engine("gateway"), "DELETE FROM gateway.effects")
    await execute(harness.engine("gateway"), "DELETE FROM gateway.inbox_messages")


def copy_store(server: NatsServer, target: Path) -> None:
    """A copy of the store of a stopped server, as a backup would be."""
    assert not server.alive()
    shutil.copytree(server.store_directory, target)


def restore_store(server: NatsServer, source: Path) -> None:
    """Put an older copy in place."""
    assert not server.alive()
    shutil.rmtree(server.store_directory)
    shutil.copytree(source, server.store_directory)


async def test_a_wiped_broker_is_told_everything_again(harness: MessagingHarness, nats_server: NatsServer) -> None:
    billing = await line(harness)
    before = await publish_refused(billing.transactions, 300)
    await expect_effects(harness.engine("gateway"), before)
    await expect_published(harness.engine("billing"))

    await nats_server.stop()
    nats_server.wipe_store()
    during = await publish_refused(billing.transactions, 50)
    await forget_effects(harness)
    await nats_server.start()
    after = await publish_refused(billing.transactions, 50)

    everything = [*before, *during, *after]
    await expect_effects(harness.engine("gateway"), everything, timeout=RECOVERY_SECONDS)
    await expect_published(harness.engine("billing"))


async def test_a_broker_rolled_back_to_an_older_copy_gets_the_rest_again(
    harness: MessagingHarness, nats_server: NatsServer, tmp_path: Path
) -> None:
    billing = await line(harness)
    old = await publish_refused(billing.transactions, 200)
    await expect_effects(harness.engine("gateway"), old)
    await eventually(lambda: verified(harness))
    await nats_server.stop()
    copy_store(nats_server, tmp_path / "backup")
    await nats_server.start()
    lost = await publish_refused(billing.transactions, 100)
    await expect_effects(harness.engine("gateway"), [*old, *lost], timeout=RECOVERY_SECONDS)
    await expect_published(harness.engine("billing"))

    await nats_server.stop()
    restore_store(nats_server, tmp_path / "backup")
    await nats_server.start()

    jetstream = (await harness.admin()).jetstream()

    async def stored_again() -> bool:
        return int((await jetstream.stream_info("BILLING")).state.messages) == 300

    await eventually(stored_again, timeout=RECOVERY_SECONDS)
    assert sorted(await effects(harness.engine("gateway"))) == sorted([*old, *lost])


async def test_a_rolled_back_broker_that_has_grown_past_the_loss_is_found_out(
    harness: MessagingHarness, nats_server: NatsServer, tmp_path: Path
) -> None:
    """Sequence numbers are used again before anybody looks: only the message under the number tells."""
    relay = harness.messaging("billing")
    await run_until_published(harness, relay, 20)
    await nats_server.stop()
    copy_store(nats_server, tmp_path / "backup")
    await nats_server.start()
    await run_until_published(harness, harness.messaging("billing"), 10)

    await nats_server.stop()
    restore_store(nats_server, tmp_path / "backup")
    await nats_server.start()
    jetstream = (await harness.admin()).jetstream()
    for number in range(50):
        await jetstream.publish(CreditsRefused.subject, b"{}", headers={"Nats-Msg-Id": f"stranger {number}"})

    await harness.start("billing")

    async def stored_again() -> bool:
        return int((await jetstream.stream_info("BILLING")).state.messages) == 20 + 50 + 10

    await eventually(stored_again, timeout=RECOVERY_SECONDS)


async def test_new_messages_under_old_numbers_do_not_hide_what_a_wiped_broker_lost(
    harness: MessagingHarness, nats_server: NatsServer
) -> None:
    """The relay is faster than the watch: it leaves a sound checkpoint below the lost ones before anybody looks."""
    await run_until_published(harness, harness.messaging("billing"), 300)
    await nats_server.stop()
    nats_server.wipe_store()
    await nats_server.start()
    jetstream = (await harness.admin()).jetstream()
    hasty = harness.messaging("billing")
    await publish_refused(hasty.transactions, 100)
    async with hasty.broker.open():
        assert await hasty.relay.relay_batch() == (100, 100)

    await harness.start("billing")

    async def stored_again() -> bool:
        return int((await jetstream.stream_info("BILLING")).state.messages) == 400

    await eventually(stored_again, timeout=RECOVERY_SECONDS)


async def test_what_was_verified_is_looked_at_again_below_what_is_new(
    harness: MessagingHarness, nats_server: NatsServer
) -> None:
    """The stream has grown past the last verified checkpoint under new messages before anybody looks."""
    billing = harness.messaging("billing")
    await publish_refused(billing.transactions, 30)
    async with running(billing.components()):
        await expect_published(harness.engine("billing"))
        await eventually(lambda: verified(harness))
    await nats_server.stop()
    nats_server.wipe_store()
    await nats_server.start()
    jetstream = (await harness.admin()).jetstream()
    hasty = harness.messaging("billing")
    await publish_refused(hasty.transactions, 100)
    async with hasty.broker.open():
        assert await hasty.relay.relay_batch() == (100, 100)

    await harness.start("billing")

    async def stored_again() -> bool:
        return int((await jetstream.stream_info("BILLING")).state.messages) == 130

    await eventually(stored_again, timeout=RECOVERY_SECONDS)


async def run_until_published(harness: MessagingHarness, messaging: Messaging, count: int) -> list[UUID]:
    """Run one process of billing until it has published ``count`` messages, and stop it."""
    async with running(messaging.components()):
        ids = await publish_refused(messaging.transactions, count)
        await expect_published(harness.engine("billing"))
    return ids


async def test_commands_into_another_service_s_stream_survive_its_loss(
    harness: MessagingHarness, nats_server: NatsServer
) -> None:
    payments = await harness.start("payments")
    await harness.start("billing", [Subscription(GrantCredits, record_in_billing)], ack_wait_seconds=2)
    ids = []
    for _ in range(20):
        async with payments.transactions.begin() as tx:
            ids.append(tx.publish(grant(), correlation_id=new_id()))
    await expect_effects(harness.engine("billing"), ids, "billing")
    await expect_published(harness.engine("payments"), "payments")

    nats_server.kill()
    nats_server.wipe_store()
    await execute(harness.engine("billing"), "DELETE FROM billing.effects")
    await execute(harness.engine("billing"), "DELETE FROM billing.inbox_messages")
    await nats_server.start()

    await expect_effects(harness.engine("billing"), ids, "billing", timeout=RECOVERY_SECONDS)


async def test_kill_nine_with_a_thousand_messages_in_flight(harness: MessagingHarness, nats_server: NatsServer) -> None:
    billing = await line(harness)
    ids: list[UUID] = []
    for burst in range(10):
        ids += await publish_refused(billing.transactions, 100, burst * 100)
        if burst in (4, 8):
            nats_server.kill()
            await nats_server.start()

    await expect_effects(harness.engine("gateway"), ids, timeout=RECOVERY_SECONDS)
    await expect_published(harness.engine("billing"))


async def test_a_consumer_whose_place_is_ahead_of_the_stream_is_built_again(
    harness: MessagingHarness, nats_server: NatsServer, tmp_path: Path
) -> None:
    """The stream went back but the consumer's own state did not: its new messages would count as acknowledged."""
    billing = await line(harness)
    old = await publish_refused(billing.transactions, 100)
    await expect_effects(harness.engine("gateway"), old)
    await eventually(lambda: verified(harness, "gateway"))
    await nats_server.stop()
    copy_store(nats_server, tmp_path / "backup")
    await nats_server.start()
    lost = await publish_refused(billing.transactions, 100)
    await expect_effects(harness.engine("gateway"), [*old, *lost], timeout=RECOVERY_SECONDS)
    await expect_published(harness.engine("billing"))

    await nats_server.stop()
    [messages] = nats_server.store_directory.rglob("BILLING/msgs")
    [older] = (tmp_path / "backup").rglob("BILLING/msgs")
    shutil.rmtree(messages)
    shutil.copytree(older, messages)
    await nats_server.start()
    new = await publish_refused(billing.transactions, 150)

    await expect_effects(harness.engine("gateway"), [*old, *lost, *new], timeout=RECOVERY_SECONDS)
    jetstream = (await harness.admin()).jetstream()

    async def stored_again() -> bool:
        return int((await jetstream.stream_info("BILLING")).state.messages) == 350

    await eventually(stored_again, timeout=RECOVERY_SECONDS)


async def test_only_what_is_lost_is_published_again(
    harness: MessagingHarness, nats_server: NatsServer, tmp_path: Path
) -> None:
    await run_until_published(harness, harness.messaging("billing"), 200)
    engine = harness.engine("billing")
    watch = harness.messaging("billing")
    async with watch.broker.open():
        await watch.amnesia.check()
    # The landmark of an earlier hour stays when the next one is verified.
    await execute(engine, "UPDATE billing.relay_positions SET recorded_at = now() - interval '2 hours'")
    await nats_server.stop()
    copy_store(nats_server, tmp_path / "backup")
    await nats_server.start()
    await run_until_published(harness, harness.messaging("billing"), 100)
    async with watch.broker.open():
        await watch.amnesia.check()
        await nats_server.stop()
        restore_store(nats_server, tmp_path / "backup")
        await nats_server.start()
        await eventually(lambda: watch.broker.client.is_connected)
        await watch.amnesia.check()

    query = "SELECT count(*) FROM billing.outbox_messages WHERE published_at IS NULL"
    assert await scalar(engine, query) == 100
    await harness.start("billing")
    await expect_published(engine)


async def test_a_purge_of_what_a_consumer_has_not_read_is_a_loss(harness: MessagingHarness) -> None:
    """The stream is as old and its last sequence as high as before: only the first sequence tells."""
    billing = await harness.start("billing")
    ids = await publish_refused(billing.transactions, 50)
    await eventually(lambda: verified(harness))
    jetstream = (await harness.admin()).jetstream()
    await jetstream.purge_stream("BILLING")

    await harness.start("gateway", [Subscription(CreditsRefused, record)])

    await expect_effects(harness.engine("gateway"), ids, timeout=RECOVERY_SECONDS)
    await expect_published(harness.engine("billing"))


async def test_a_purge_that_keeps_the_newest_messages_is_a_loss_too(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    lost = await publish_refused(billing.transactions, 20)
    await eventually(lambda: verified(harness))
    await execute(
        harness.engine("billing"), "UPDATE billing.relay_positions SET recorded_at = recorded_at - interval '90 min'"
    )
    # Another replica opens a checkpoint of its own: within a second, the first one would move its open one forward.
    replica = await harness.start("billing")
    kept = await publish_refused(replica.transactions, 20)
    await expect_published(harness.engine("billing"))
    await eventually(lambda: verified(harness))
    jetstream = (await harness.admin()).jetstream()
    await jetstream.purge_stream("BILLING", keep=5)

    await harness.start("gateway", [Subscription(CreditsRefused, record)])

    await expect_effects(harness.engine("gateway"), [*lost, *kept], timeout=RECOVERY_SECONDS)


async def test_what_has_outlived_the_stream_s_retention_is_not_published_again(harness: MessagingHarness) -> None:
    await run_until_published(harness, harness.messaging("billing"), 20)
    watch = harness.messaging("billing")
    async with watch.broker.open():
        await watch.amnesia.check()
        query = "UPDATE billing.relay_positions SET recorded_at = now() - interval '7 days'"
        await execute(harness.engine("billing"), query)
        await (await harness.admin()).jetstream().purge_stream("BILLING")
        await watch.amnesia.check()

    assert await unpublished(harness.engine("billing")) == 0


async def test_a_stream_that_has_not_changed_is_looked_into_once_a_minute(
    harness: MessagingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_until_published(harness, harness.messaging("billing"), 20)
    watch = harness.messaging("billing")
    jetstream = (await harness.admin()).jetstream()

    async def last_look() -> object:
        """When the service last got a message through the consumer by which it looks into its stream."""
        info = await jetstream.consumer_info("BILLING", verifier_name("billing", "BILLING"))
        return info.delivered

    async with watch.broker.open():
        await watch.amnesia.check()
        await watch.amnesia.check()
        before = await last_look()
        await watch.amnesia.check()
        assert await last_look() == before

        monkeypatch.setattr(amnesia, "LOOK_INTO_SECONDS", 0.0)
        await watch.amnesia.check()
        assert (after_a_minute := await last_look()) != before
        monkeypatch.undo()

        await watch.amnesia.check()
        assert await last_look() == after_a_minute
        watch.broker.epoch += 1  # As after a reconnect.
        await watch.amnesia.check()
        assert (after_a_reconnect := await last_look()) != after_a_minute

        await watch.amnesia.check()
        assert await last_look() == after_a_reconnect
        await jetstream.publish(CreditsRefused.subject, b"{}", headers={"Nats-Msg-Id": "a stranger"})
        await watch.amnesia.check()
        assert await last_look() != after_a_reconnect


async def test_what_was_not_found_before_is_looked_for_in_a_stream_that_has_not_changed(
    harness: MessagingHarness,
) -> None:
    """What was acknowledged, and lost at once, leaves a stream as it was."""
    await run_until_published(harness, harness.messaging("billing"), 20)
    watch, engine = harness.messaging("billing"), harness.engine("billing")
    async with watch.broker.open():
        for _ in range(2):
            await watch.amnesia.check()
        await execute(engine, "UPDATE billing.relay_positions SET verified_at = NULL")
        await watch.amnesia.check()
        assert await verified(harness)

        [lost] = await publish_refused(watch.transactions, 1)
        marked = "published_at = now(), published_sequence = 21"
        await execute(engine, f"UPDATE billing.outbox_messages SET {marked} WHERE message_id = :lost", lost=lost)
        # Another replica had found it.
        position = "'relay', 'BILLING', gen_random_uuid(), 21, :lost, now()"
        columns = "holder, stream, checkpoint_id, sequence, message_id, verified_at"
        await execute(engine, f"INSERT INTO billing.relay_positions ({columns}) VALUES ({position})", lost=lost)
        await watch.amnesia.check()
    assert await unpublished(engine) == 1
