"""A database that is older than the broker: noticed, nothing is booked, and one command heals it."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import asyncpg
import pytest

from contracts.billing import CreditsExpired, CreditsRefused
from local_platform.servers import NatsServer
from messaging.consumers import Subscription
from messaging.errors import BrokerUnavailableError, DatabaseWentBackError
from messaging.ids import new_id
from messaging.runtime import Messaging
from provisioning.after_restore import empty_streams
from tests.messaging.integration.conftest import SERVICES, MessagingHarness
from tests.messaging.integration.effects import (
    effects,
    execute,
    expect_effects,
    expect_published,
    publish_refused,
    record,
    refused,
    scalar,
)
from tests.support import eventually
from tests.support.components import running

RECOVERY_SECONDS = 40.0
TABLES = ("outbox_messages", "inbox_messages", "relay_positions", "dead_letters", "delivery_attempts", "effects")
LISTENING = (Subscription(CreditsRefused, record),)


async def back_up(harness: MessagingHarness) -> None:
    """Remember every schema as it is now."""
    await _for_each_table(harness, "CREATE TABLE {schema}.{table}_backup AS SELECT * FROM {schema}.{table}")


async def restore(harness: MessagingHarness, schemas: Sequence[str] = SERVICES) -> None:
    """Bring back what ``back_up`` remembered. The services are stopped."""
    await _for_each_table(
        harness,
        "TRUNCATE {schema}.{table}; INSERT INTO {schema}.{table} SELECT * FROM {schema}.{table}_backup",
        schemas,
    )


async def _for_each_table(harness: MessagingHarness, query: str, schemas: Sequence[str] = SERVICES) -> None:
    connection = await asyncpg.connect(harness.database.superuser_dsn)
    try:
        for schema in schemas:
            for table in TABLES:
                await connection.execute(query.format(schema=schema, table=table))
    finally:
        await connection.close()


def gateway(harness: MessagingHarness) -> Messaging:
    """A gateway that listens."""
    return harness.messaging("gateway", LISTENING)


async def went_back(messaging: Messaging) -> bool:
    """Whether the service says that its database is older than the broker."""
    try:
        await messaging.readiness()["lineage"]()
    except DatabaseWentBackError as error:
        return "python -m provisioning after-restore" in str(error)
    except BrokerUnavailableError:
        return False
    return False


async def empty(server: NatsServer) -> None:
    """What an operator runs."""
    await empty_streams(server.url, "admin", server.users["admin"])


async def test_what_the_restored_database_never_knew_is_not_booked(
    harness: MessagingHarness, nats_server: NatsServer
) -> None:
    producer, reader = harness.messaging("billing"), gateway(harness)
    async with running([*producer.components(), *reader.components()]):
        kept = await publish_refused(producer.transactions, 20)
        await expect_effects(harness.engine("gateway"), kept)
        await expect_published(harness.engine("billing"))
        await back_up(harness)
        gone = await publish_refused(producer.transactions, 20)
        await expect_effects(harness.engine("gateway"), [*kept, *gone])
    await restore(harness)

    producer, reader = harness.messaging("billing"), gateway(harness)
    await harness.run([*producer.components(), *reader.components()])
    await eventually(lambda: went_back(producer), timeout=RECOVERY_SECONDS)
    await eventually(lambda: went_back(reader), timeout=RECOVERY_SECONDS)
    assert sorted(await effects(harness.engine("gateway"))) == sorted(kept)

    await empty(nats_server)
    new = await publish_refused(producer.transactions, 5)
    await expect_effects(harness.engine("gateway"), [*kept, *new], timeout=RECOVERY_SECONDS)
    assert not await went_back(producer)
    assert not await went_back(reader)


async def test_a_reader_that_went_back_alone_gets_what_it_lost(
    harness: MessagingHarness, nats_server: NatsServer
) -> None:
    """The producer's row was committed before the moment of the backup, and the reader's effect after it."""
    producer, reader = harness.messaging("billing"), gateway(harness)
    async with running([*producer.components(), *reader.components()]):
        kept = await publish_refused(producer.transactions, 5)
        await expect_effects(harness.engine("gateway"), kept)
        await back_up(harness)
        lost = await publish_refused(producer.transactions, 5)
        await expect_effects(harness.engine("gateway"), [*kept, *lost])
        await expect_published(harness.engine("billing"))
    await restore(harness, ["gateway"])

    await harness.run(producer.components())
    for _ in range(2):  # The evidence outlives the process that found it.
        reader = gateway(harness)
        async with running(reader.components()):
            await eventually(partial(went_back, reader), timeout=RECOVERY_SECONDS)
    assert sorted(await effects(harness.engine("gateway"))) == sorted(kept)

    await harness.run(gateway(harness).components())
    await empty(nats_server)
    await expect_effects(harness.engine("gateway"), [*kept, *lost], timeout=RECOVERY_SECONDS)


async def test_a_database_that_goes_back_under_a_running_service_is_noticed(
    harness: MessagingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("messaging.lineage.COMPARE_EVERY", timedelta(seconds=1))
    producer = await harness.start("billing")
    await publish_refused(producer.transactions, 1)
    await expect_published(harness.engine("billing"))
    await eventually(lambda: is_trusted(producer))

    await execute(harness.engine("billing"), "DELETE FROM billing.relay_positions")
    await execute(harness.engine("billing"), "DELETE FROM billing.outbox_messages")

    await eventually(lambda: went_back(producer), timeout=RECOVERY_SECONDS)


async def is_trusted(messaging: Messaging) -> bool:
    """Whether the database was compared and trusted."""
    try:
        await messaging.lineage.ready()
    except BrokerUnavailableError:
        return False
    return True


@pytest.mark.parametrize("reason", ["a subject that it does not read", "a dead letter"])
async def test_a_durable_that_passed_more_than_it_handled_is_no_evidence(
    harness: MessagingHarness, reason: str
) -> None:
    producer, reader = harness.messaging("billing"), gateway(harness)
    await harness.change_consumer("gateway", "BILLING", filter_subjects=[CreditsRefused.subject])
    jetstream = (await harness.admin()).jetstream()

    async def floor() -> int:
        info = await jetstream.consumer_info("BILLING", "gateway-billing")
        return 0 if info.ack_floor is None else info.ack_floor.stream_seq

    async with running([*producer.components(), *reader.components()]):
        if reason == "a dead letter":
            handled = await publish_refused(producer.transactions, 1)
            await expect_effects(harness.engine("gateway"), handled)
            await jetstream.publish(CreditsRefused.subject, b"not what the contracts say")
            await eventually(lambda: floor_is(floor, 2))
        else:
            async with producer.transactions.begin() as tx:
                expired = CreditsExpired(grant_id=new_id(), user_id=new_id(), expired_credits=1, lines=())
                first = tx.publish(refused(), correlation_id=new_id())
                tx.publish(expired, correlation_id=new_id())
            await expect_effects(harness.engine("gateway"), [first])
            handled = [first, *await publish_refused(producer.transactions, 1)]
            async with producer.transactions.begin() as tx:
                tx.publish(expired, correlation_id=new_id())
            await expect_effects(harness.engine("gateway"), handled)
            await expect_published(harness.engine("billing"))
    query = "SELECT max(sequence) FROM gateway.relay_positions WHERE holder = 'gateway-billing'"
    if reason == "a subject that it does not read":
        # The server moves the floor when it acknowledges; how far it has looked by then is its own affair.
        await jetstream.reset_consumer("BILLING", "gateway-billing", seq=5)
    assert await floor() > await scalar(harness.engine("gateway"), query)

    again = gateway(harness)
    await harness.run([*producer.components(), *again.components()])
    new = await publish_refused(producer.transactions, 1)

    await expect_effects(harness.engine("gateway"), [*handled, *new])
    assert not await went_back(again)


async def floor_is(floor: object, sequence: int) -> bool:
    """Whether the durable has acknowledged up to ``sequence``."""
    assert callable(floor)
    return bool(await floor() == sequence)
