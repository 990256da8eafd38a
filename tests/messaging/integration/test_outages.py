"""PostgreSQL or NATS away, frozen or restarted: everything waits, and goes on where it stopped."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from contracts.billing import CreditsRefused
from local_platform.servers import NatsServer, PostgresServer
from messaging.broker import Broker
from messaging.consumers import Subscription
from messaging.database import DATABASE_ERRORS, is_unavailable
from messaging.errors import BrokerUnavailableError, DatabaseWentBackError
from messaging.runtime import Messaging
from messaging.transaction import Transactions
from service_runtime.settings import ServiceSettings
from tests.messaging.integration.conftest import MessagingHarness, add_tables
from tests.messaging.integration.effects import (
    effects,
    execute,
    expect_effects,
    expect_published,
    publish_refused,
    record,
    scalar,
    unpublished,
)
from tests.support import eventually
from tests.support.databases import DatabaseFactory


@pytest.fixture
async def fragile(
    own_postgres: PostgresServer, nats_server: NatsServer, broker_settings: Callable[[str], ServiceSettings]
) -> AsyncIterator[MessagingHarness]:
    """Services on that server."""
    database = await DatabaseFactory(own_postgres).make(())
    await add_tables(database)
    made = MessagingHarness(database, nats_server, broker_settings)
    yield made
    await made.stop()
    await database.dispose()


async def test_nothing_is_lost_or_blamed_when_postgres_crashes_under_load(
    fragile: MessagingHarness, own_postgres: PostgresServer
) -> None:
    billing = await fragile.start("billing")
    await fragile.start("gateway", [Subscription(CreditsRefused, record)], max_deliveries=1, ack_wait_seconds=5)
    ids = []
    for burst in range(6):
        ids += await publish_refused(billing.transactions, 100, burst * 100)
    await own_postgres.stop("immediate")
    with pytest.raises(DATABASE_ERRORS) as refused:
        await publish_refused(billing.transactions, 1)
    assert is_unavailable(refused.value)
    await own_postgres.start()

    async def another_commits() -> bool:
        try:
            ids.extend(await publish_refused(billing.transactions, 1))
        except Exception as error:
            raise AssertionError("not up yet") from error
        return True

    await eventually(another_commits)
    await expect_effects(fragile.engine("gateway"), ids, timeout=30)
    await expect_published(fragile.engine("billing"))
    assert await scalar(fragile.engine("gateway"), "SELECT count(*) FROM gateway.dead_letters") == 0
    assert await scalar(fragile.engine("gateway"), "SELECT count(*) FROM gateway.delivery_attempts") == 0


async def test_a_standby_that_lacked_the_last_commits_is_found_out_below_new_ones(
    fragile: MessagingHarness, own_postgres: PostgresServer
) -> None:
    """It takes over before anybody looks: what it commits is published above what it never knew."""
    billing, engine = fragile.messaging("billing"), fragile.engine("billing")
    async with billing.broker.open():
        await billing.amnesia.check()
    await fragile.run([billing.relay])
    await publish_refused(billing.transactions, 5)
    lost = await publish_refused(billing.transactions, 5)
    await expect_published(engine)
    of_lost = "WHERE message_id = ANY(CAST(:lost AS uuid[]))"
    await execute(engine, f"DELETE FROM billing.outbox_messages {of_lost}", lost=lost)
    await execute(engine, "DELETE FROM billing.relay_positions WHERE sequence > 5")
    await own_postgres.stop("immediate")
    await own_postgres.start()

    async def another_commits() -> bool:
        try:
            await publish_refused(billing.transactions, 1)
        except Exception as error:
            raise AssertionError("not up yet") from error
        return True

    async def the_relay_has_been_there() -> bool:
        try:
            await billing.lineage.ready()
        except BrokerUnavailableError:
            return True
        return await unpublished(engine) == 0

    await eventually(another_commits)
    await eventually(the_relay_has_been_there)
    await billing.amnesia.check()
    with pytest.raises(DatabaseWentBackError):
        await billing.lineage.ready()


async def test_work_goes_on_while_the_broker_is_away(harness: MessagingHarness, nats_server: NatsServer) -> None:
    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])
    first = await publish_refused(billing.transactions, 10)
    await expect_effects(harness.engine("gateway"), first)

    await nats_server.stop()
    second = await publish_refused(billing.transactions, 10)
    assert sorted(await effects(harness.engine("gateway"))) == sorted(first)
    await nats_server.start()

    await expect_effects(harness.engine("gateway"), [*first, *second])


async def test_a_broker_that_freezes_and_thaws_delivers_on(harness: MessagingHarness, nats_server: NatsServer) -> None:
    """Longer than the feed's patience: the subscription is given up and built again."""
    billing = await harness.start("billing")
    gateway = await harness.start("gateway", [Subscription(CreditsRefused, record)])
    first = await publish_refused(billing.transactions, 10)
    await expect_effects(harness.engine("gateway"), first)
    feed = gateway.consumers.consumers[0]._feed

    os.kill(nats_server.pid, signal.SIGSTOP)
    try:
        second = await publish_refused(billing.transactions, 10)
        await eventually(lambda: gateway.consumers.consumers[0]._feed is not feed, timeout=20)
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)

    await expect_effects(harness.engine("gateway"), [*first, *second], timeout=30)


async def test_services_may_start_before_postgres_and_nats(
    fragile: MessagingHarness, own_postgres: PostgresServer, nats_server: NatsServer
) -> None:
    ids = await publish_refused(Transactions(fragile.engine("billing"), "billing"), 10)
    await own_postgres.stop()
    nats_server.kill()
    await fragile.start("gateway", [Subscription(CreditsRefused, record)])
    await fragile.start("billing")
    await nats_server.start()
    await own_postgres.start()

    await expect_effects(fragile.engine("gateway"), ids, timeout=30)


async def test_a_service_whose_user_is_revoked_ends_with_the_reason(
    harness: MessagingHarness, nats_server: NatsServer
) -> None:
    """The client library gives up for good then; a process that went on would be deaf."""
    billing = harness.messaging("billing")
    billing.lineage.trust()
    run = asyncio.create_task(billing.relay.run())
    await eventually(lambda: is_connected(billing))

    configuration = nats_server.directory / "nats.conf"
    configuration.write_text(configuration.read_text().replace(nats_server.users["billing"], "another"))
    os.kill(nats_server.pid, signal.SIGHUP)

    with pytest.raises(BrokerUnavailableError, match="for good"):
        await asyncio.wait_for(run, 20)


async def is_connected(messaging: Messaging) -> bool:
    """Whether the broker answers this process."""
    try:
        await messaging.broker.ready()
    except BrokerUnavailableError:
        return False
    return True


async def test_a_connection_given_up_before_it_stood_leaves_nothing_behind() -> None:
    """What listens there says nothing, and then the service is told to stop."""
    accepted = asyncio.Event()
    open_connections: list[asyncio.StreamWriter] = []

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_connections.append(writer)
        accepted.set()
        await reader.read()
        open_connections.remove(writer)
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        before = asyncio.all_tasks()
        port = server.sockets[0].getsockname()[1]
        broker = Broker(f"nats://127.0.0.1:{port}", "billing", "secret", name="billing")
        connecting = asyncio.create_task(broker.connect())
        await asyncio.wait_for(accepted.wait(), 5)

        async def given_up() -> bool:
            connecting.cancel()
            await asyncio.wait({connecting}, timeout=0.5)
            return connecting.done()

        await eventually(given_up)
        await eventually(lambda: not open_connections and asyncio.all_tasks() <= before)
