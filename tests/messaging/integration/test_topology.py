"""A stream or consumer that is configured otherwise than expected stops the service with the reason."""

import pytest

from contracts.billing import CreditsCaptured, CreditsRefused
from contracts.streams import BY_NAME
from messaging.consumers import Subscription
from messaging.errors import BrokerUnavailableError, ConfigurationMismatchError
from messaging.topology import assert_stream
from tests.messaging.integration.conftest import MessagingHarness, running
from tests.messaging.integration.effects import record
from tests.support import eventually


async def test_a_service_refuses_to_run_on_a_stream_that_is_kept_otherwise(harness: MessagingHarness) -> None:
    jetstream = (await harness.admin()).jetstream()
    info = await assert_stream(jetstream, BY_NAME["BILLING"], replicas=1)
    await jetstream.update_stream(info.config, max_age=3600, duplicate_window=60)

    with pytest.raises(ConfigurationMismatchError) as refusal:
        await harness.messaging("billing").amnesia.run()

    assert (refusal.value.field, refusal.value.expected, refusal.value.found) == ("max_age", 604800, 3600)
    assert "stream BILLING: max_age is 3600.0 at the broker, but this release expects 604800" in str(refusal.value)


async def test_a_service_refuses_to_run_on_a_consumer_with_other_filters(harness: MessagingHarness) -> None:
    await harness.start("billing")
    older = harness.messaging("gateway", [Subscription(CreditsRefused, record)])
    client = await harness.admin()

    async def consumer_exists() -> bool:
        streams = [info.config.name for info in await client.jetstream().streams_info()]
        return "BILLING" in streams and bool(await client.jetstream().consumers_info("BILLING"))

    async with running(older.components()):
        await eventually(consumer_exists)

    newer = harness.messaging("gateway", [Subscription(CreditsRefused, record), Subscription(CreditsCaptured, record)])
    newer.lineage.trust()
    with pytest.raises(ConfigurationMismatchError, match="consumer gateway-billing: filter_subjects is"):
        await newer.consumers.consumers[0].run()


async def test_a_service_is_not_ready_before_its_stream_is_there(harness: MessagingHarness) -> None:
    billing = harness.messaging("billing")
    for check in billing.readiness().values():
        with pytest.raises(BrokerUnavailableError):
            await check()


def test_a_subscription_to_what_the_contracts_do_not_name_is_refused(harness: MessagingHarness) -> None:
    with pytest.raises(ValueError, match="do not name payments as a reader"):
        harness.messaging("payments", [Subscription(CreditsRefused, record)])
