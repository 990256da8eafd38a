"""The provisioner makes what a release needs, mends what differs, and refuses what would lose messages."""

from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import RePublish, StreamSource, SubjectTransform

from contracts.billing import CreditsCaptured, CreditsRefused
from contracts.permissions import PROVISIONER, consumed_subjects
from contracts.streams import BY_NAME
from local_platform.servers import NatsServer
from local_platform.servers.nats import ADMIN
from messaging.provisioning import RefusedError, provision_server
from messaging.topology import filters_of, stream_config, stream_differences

DURABLE = "gateway-billing"


@pytest.fixture
async def jetstream(server: NatsServer) -> AsyncIterator[JetStreamContext]:
    """The broker as an operator changes it by hand."""
    client = Client()
    await client.connect(server.url, user=ADMIN, password=server.users[ADMIN])
    yield client.jetstream()
    await client.close()


async def provision(server: NatsServer, *, narrow: bool = False) -> list[str]:
    return await provision_server(server.url, server.users[PROVISIONER], narrow=narrow)


async def test_a_second_run_changes_nothing(server: NatsServer) -> None:
    assert await provision(server) == []


@pytest.mark.parametrize(
    "change",
    [
        {"republish": RePublish(src="storage.>", dest="elsewhere.>")},
        {"sources": [StreamSource(name="PAYMENTS")]},
        {"subject_transform": SubjectTransform(src="storage.>", dest="storage.all.>")},
        {"allow_direct": True},
        {"max_msgs": 10},
        {"max_msgs_per_subject": 1},
        {"max_age": 3600.0, "duplicate_window": 60.0},
        {"discard": "old"},
        {"subjects": ["storage.event.>"]},
        {"compression": "s2"},
        {"max_bytes": 10**10},
    ],
    ids=lambda change: "+".join(change),
)
async def test_whatever_was_changed_at_a_stream_is_changed_back(
    server: NatsServer, jetstream: JetStreamContext, change: dict[str, object]
) -> None:
    wanted = stream_config(BY_NAME["STORAGE"], replicas=1)
    info = await jetstream.stream_info("STORAGE")
    await jetstream.update_stream(info.config, **change)
    assert stream_differences(wanted, (await jetstream.stream_info("STORAGE")).config)

    [told] = await provision(server)

    assert told.startswith("changed the stream STORAGE: ")
    assert stream_differences(wanted, (await jetstream.stream_info("STORAGE")).config) == []


async def test_a_stream_that_keeps_messages_longer_is_not_cut_short(
    server: NatsServer, jetstream: JetStreamContext
) -> None:
    info = await jetstream.stream_info("STORAGE")
    await jetstream.update_stream(info.config, max_age=30 * 24 * 3600.0)
    with pytest.raises(RefusedError, match=r"older messages would be lost.*nats stream edit STORAGE --max-age=604800s"):
        await provision(server)
    await jetstream.update_stream(info.config)


async def test_a_consumer_of_another_kind_is_refused_with_what_to_do(
    server: NatsServer, jetstream: JetStreamContext
) -> None:
    info = await jetstream.consumer_info("BILLING", DURABLE)
    await jetstream.delete_consumer("BILLING", DURABLE)
    await jetstream.add_consumer("BILLING", info.config, ack_policy="all")
    with pytest.raises(RefusedError, match=f"ack_policy cannot be changed.*nats consumer rm BILLING {DURABLE}"):
        await provision(server)
    await jetstream.delete_consumer("BILLING", DURABLE)
    assert await provision(server) == [f"created the consumer {DURABLE}"]


async def test_subjects_of_a_newer_release_stay_until_they_are_taken_away_on_purpose(
    server: NatsServer, jetstream: JetStreamContext
) -> None:
    newer = "billing.event.heard-of-later.v1"
    ours = consumed_subjects("gateway", "BILLING")
    info = await jetstream.consumer_info("BILLING", DURABLE)
    await jetstream.add_consumer("BILLING", info.config, filter_subjects=[*ours, newer])

    assert await provision(server) == []
    assert newer in filters_of((await jetstream.consumer_info("BILLING", DURABLE)).config)
    assert await provision(server, narrow=True) == [f"changed the consumer {DURABLE}: filter_subjects"]
    assert filters_of((await jetstream.consumer_info("BILLING", DURABLE)).config) == ours


async def test_a_provisioner_that_died_before_the_rewind_is_continued(
    server: NatsServer, jetstream: JetStreamContext
) -> None:
    """It noted at the consumer, in the step that widened it, that it has to go back."""
    await jetstream.publish(CreditsCaptured.subject, b"{}")
    await jetstream.publish(CreditsRefused.subject, b"{}")
    info = await jetstream.consumer_info("BILLING", DURABLE)
    await jetstream.reset_consumer("BILLING", DURABLE, seq=3)
    await jetstream.add_consumer("BILLING", info.config, metadata={"reelhouse-rewind-to": "1"})
    assert (await jetstream.consumer_info("BILLING", DURABLE)).num_pending == 0

    await provision(server)

    after = await jetstream.consumer_info("BILLING", DURABLE)
    assert after.num_pending == 2
    assert "reelhouse-rewind-to" not in (after.config.metadata or {})
    assert await provision(server) == []
