"""What a service does about streams and consumers that are not as it expects: it waits, goes on, or says why not."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import msgspec
import pytest

from contracts import headers
from contracts.billing import CreditsCaptured, CreditsRefused
from messaging import batches
from messaging.consumers import Subscription
from messaging.errors import BrokerUnavailableError, ConfigurationMismatchError, NotProvisionedError
from messaging.ids import new_id
from messaging.transaction import Transactions
from tests.messaging.integration.conftest import MessagingHarness
from tests.messaging.integration.effects import (
    captured,
    effects,
    expect_effects,
    publish_refused,
    record,
    refused,
    scalar,
)
from tests.support import eventually

Check = Callable[[], Awaitable[None]]


async def test_a_service_refuses_to_run_on_a_stream_that_is_kept_otherwise(harness: MessagingHarness) -> None:
    jetstream = (await harness.admin()).jetstream()
    info = await jetstream.stream_info("BILLING")
    await jetstream.update_stream(info.config, max_age=3600, duplicate_window=60)

    with pytest.raises(ConfigurationMismatchError) as refusal:
        await harness.messaging("billing").amnesia.run()

    assert (refusal.value.field, refusal.value.expected, refusal.value.found) == ("max_age", 604800, 3600)
    assert "stream BILLING: max_age is 3600.0 at the broker, but this release expects 604800" in str(refusal.value)


async def test_a_service_refuses_to_run_on_a_consumer_that_gives_up_by_itself(harness: MessagingHarness) -> None:
    await harness.change_consumer("gateway", "BILLING", max_deliver=3)
    gateway = harness.messaging("gateway", [Subscription(CreditsRefused, record)])
    gateway.lineage.trust()

    with pytest.raises(ConfigurationMismatchError, match="consumer gateway-billing: max_deliver is 3") as refusal:
        await gateway.consumers.consumers[0].run()

    assert "python -m messaging.provisioning" in str(refusal.value)


async def test_a_service_is_not_ready_before_its_stream_is_there(harness: MessagingHarness) -> None:
    billing = harness.messaging("billing")
    checks = billing.readiness()
    for name in ("broker", "streams"):
        with pytest.raises(BrokerUnavailableError):
            await checks[name]()


async def test_a_service_waits_for_the_provisioner_and_names_it(harness: MessagingHarness) -> None:
    await (await harness.admin()).jetstream().delete_stream("BILLING")
    gateway = await harness.start("gateway", [Subscription(CreditsRefused, record)])
    billing = await harness.start("billing")

    async def says(check: Check, reason: str) -> bool:
        try:
            await check()
        except NotProvisionedError as error:
            return reason in str(error) and "python -m messaging.provisioning" in str(error)
        return False

    consumers, streams = gateway.readiness()["consumers"], billing.readiness()["streams"]
    await eventually(lambda: says(consumers, "the consumer gateway-billing is missing"))
    await eventually(lambda: says(streams, "the stream BILLING is missing"))

    await harness.provision()

    await expect_effects(harness.engine("gateway"), await publish_refused(billing.transactions, 3))
    await consumers()
    await streams()


async def test_a_wider_filter_reaches_the_standing_consumer_with_what_it_has_missed(harness: MessagingHarness) -> None:
    """An upgrade that reads one subject more: the old consumer is behind its messages already."""
    await harness.change_consumer("gateway", "BILLING", filter_subjects=[CreditsRefused.subject])
    billing = await harness.start("billing")
    old = await harness.start("gateway", [Subscription(CreditsRefused, record)])
    missed = await publish_captured(billing.transactions, 5)
    seen = await publish_refused(billing.transactions, 5)
    await expect_effects(harness.engine("gateway"), seen)

    both = [Subscription(CreditsRefused, record), Subscription(CreditsCaptured, record)]
    new = await harness.start("gateway", both)

    async def lacks_a_subject() -> bool:
        try:
            await new.readiness()["consumers"]()
        except NotProvisionedError as error:
            return f"gateway-billing lacks {CreditsCaptured.subject}" in str(error)
        return False

    await eventually(lacks_a_subject)
    await old.readiness()["consumers"]()

    changes = await harness.provision()

    assert [change for change in changes if CreditsCaptured.subject in change]
    await expect_effects(harness.engine("gateway"), [*missed, *seen])
    assert await harness.provision() == []


async def test_old_and_new_replicas_share_a_consumer_and_lose_nothing(harness: MessagingHarness) -> None:
    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])
    both = [Subscription(CreditsRefused, record), Subscription(CreditsCaptured, record)]
    await harness.start("gateway", both)

    ids = await publish_refused(billing.transactions, 100) + await publish_captured(billing.transactions, 100)

    await expect_effects(harness.engine("gateway"), ids)
    assert await scalar(harness.engine("gateway"), "SELECT count(*) FROM gateway.dead_letters") == 0


async def test_what_no_replica_handles_is_dead_lettered_in_the_end(
    harness: MessagingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "UNHANDLED_DELIVERIES", 2)
    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])
    [message_id] = await publish_captured(billing.transactions, 1)
    engine = harness.engine("gateway")

    async def dead() -> bool:
        query = "SELECT message_id FROM gateway.dead_letters WHERE reason = 'undecodable' AND deliveries = 2"
        return bool(await scalar(engine, query) == message_id)

    await eventually(dead)


async def test_a_message_that_names_another_producer_than_its_own_takes_no_effect(harness: MessagingHarness) -> None:
    await harness.start("gateway", [Subscription(CreditsRefused, record)])
    values = {
        headers.MESSAGE_ID: str(new_id()),
        headers.CORRELATION_ID: str(new_id()),
        headers.OCCURRED_AT: "2026-11-26T10:00:00+00:00",
        headers.PRODUCER: "payments",
    }
    await (await harness.admin()).publish(CreditsRefused.subject, msgspec.json.encode(refused()), headers=values)
    engine = harness.engine("gateway")

    async def dead() -> bool:
        error = await scalar(engine, "SELECT error FROM gateway.dead_letters WHERE reason = 'undecodable'")
        return bool(error == f"{CreditsRefused.subject} is not a message of payments")

    await eventually(dead)
    assert await effects(engine) == []


def test_a_subscription_to_what_the_contracts_do_not_name_is_refused(harness: MessagingHarness) -> None:
    with pytest.raises(ValueError, match="do not name payments as a reader"):
        harness.messaging("payments", [Subscription(CreditsRefused, record)])


async def publish_captured(transactions: Transactions, count: int) -> list[UUID]:
    """Commit ``count`` events of another subject; returns their ids."""
    async with transactions.begin() as tx:
        return [tx.publish(captured(), correlation_id=new_id()) for _ in range(count)]
