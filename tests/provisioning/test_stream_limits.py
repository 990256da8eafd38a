"""Sizes and retentions are settings; a stream that is nearly full gives up history before it refuses an order."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from pydantic import ValidationError

from contracts.message import Service
from contracts.permissions import PROVISIONER, durable_name
from contracts.storage import AssetStored
from contracts.streams import STREAMS, StreamSpec
from local_platform.servers import NatsServer
from local_platform.servers.nats import ADMIN
from messaging import provisioning
from messaging.provisioning import RefusedError, Settings, provision_server
from messaging.stream_room import GROWTH_SECONDS
from tests.support import eventually

LIMIT = 200_000
STREAM = "STORAGE"


def settings(**changes: object) -> Settings:
    return Settings.model_validate({"nats_url": "nats://nowhere", "nats_password": "not-used-here", **changes})


def test_settings_give_a_stream_its_size_and_retention() -> None:
    specs = {
        spec.name: spec
        for spec in settings(
            stream_max_bytes={"GENERATION": 32 * 1024**3}, stream_max_age_seconds={"STORAGE": 86_400}
        ).specs()
    }
    assert (specs["GENERATION"].max_bytes, specs["GENERATION"].max_age_seconds) == (32 * 1024**3, 604_800)
    assert (specs["STORAGE"].max_bytes, specs["STORAGE"].max_age_seconds) == (8 * 1024**3, 86_400)


@pytest.mark.parametrize(
    "wrong",
    [
        {"stream_max_bytes": {"GENERATIONS": 32 * 1024**3}},
        {"stream_max_bytes": {"GENERATION": 1}},
        {"stream_max_age_seconds": {"GENERATION": 60}},
        {"stream_max_age_seconds": {"GENERATION": 8 * 86_400}},
    ],
)
def test_a_limit_that_cannot_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        settings(**wrong)


@dataclass
class BrokerHarness:
    """A broker of its own, whose stream STORAGE is small and may be cut to a second."""

    server: NatsServer
    jetstream: JetStreamContext

    async def provision(self, **limits: object) -> list[str]:
        small: dict[str, object] = {"max_bytes": LIMIT, "duplicate_window_seconds": 1, **limits}
        specs: list[StreamSpec] = [
            msgspec.structs.replace(spec, **small) if spec.name == STREAM else spec for spec in STREAMS
        ]
        return await provision_server(self.server.url, self.server.users[PROVISIONER], specs=specs)

    async def fill(self, share: float) -> None:
        while await self.bytes() < share * LIMIT:
            await self.jetstream.publish(AssetStored.subject, b"x" * 5_000)

    async def bytes(self) -> int:
        return (await self.jetstream.stream_info(STREAM)).state.bytes

    async def read_by(self, *services: Service) -> None:
        """Everything that the stream holds is read and acknowledged."""
        for service in services:
            name = durable_name(service, STREAM)
            reader = await self.jetstream.pull_subscribe_bind(name, STREAM)
            waiting = (await self.jetstream.consumer_info(STREAM, name)).num_pending
            for message in await reader.fetch(waiting, timeout=20) if waiting else []:
                await message.ack_sync()

    async def takes_more(self) -> bool:
        try:
            await self.jetstream.publish(AssetStored.subject, b"x" * 5_000)
        except nats.js.errors.APIError:
            return False
        return True


@pytest.fixture
async def broker(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BrokerHarness]:
    monkeypatch.setattr(provisioning, "LEAST_AGE_SECONDS", 1)
    client = Client()
    await client.connect(server.url, user=ADMIN, password=server.users[ADMIN])
    jetstream = client.jetstream()
    await jetstream.purge_stream(STREAM)
    made = BrokerHarness(server, jetstream)
    await made.provision()
    yield made
    await jetstream.purge_stream(STREAM)
    await client.close()


async def test_a_size_is_changed_at_the_standing_stream(broker: BrokerHarness) -> None:
    await broker.fill(0.2)
    created = (await broker.jetstream.stream_info(STREAM)).created
    assert await broker.provision(max_bytes=4 * LIMIT) == [f"changed the stream {STREAM}: max_bytes"]
    assert await broker.provision(max_bytes=LIMIT) == [f"changed the stream {STREAM}: max_bytes"]
    info = await broker.jetstream.stream_info(STREAM)
    assert (info.created, info.config.max_bytes) == (created, LIMIT)
    assert info.state.bytes >= 0.2 * LIMIT


async def test_a_size_below_what_a_stream_holds_is_refused(broker: BrokerHarness) -> None:
    await broker.fill(0.5)
    with pytest.raises(RefusedError, match="Raise PROVISIONER_STREAM_MAX_BYTES"):
        await broker.provision(max_bytes=LIMIT // 4)


async def test_a_size_that_the_servers_have_no_room_for_is_refused_with_what_to_do(broker: BrokerHarness) -> None:
    with pytest.raises(RefusedError, match="Raise their max_file_store first"):
        await broker.provision(max_bytes=1024**4)


async def test_a_full_stream_gives_up_what_everybody_has_read(broker: BrokerHarness) -> None:
    """The journal has not read it: that is history, too."""
    await broker.fill(0.9)
    await broker.read_by("generation", "gateway")
    while await broker.takes_more():
        pass
    await broker.read_by("generation", "gateway")

    async def has_room() -> bool:
        # Ages are counted in seconds, and everything here is a moment old.
        await broker.provision()
        return await broker.bytes() < 0.7 * LIMIT

    await eventually(has_room, 30, "the stream makes no room")
    assert await broker.takes_more()

    async def keeps_messages_longer() -> bool:
        await broker.provision()
        return ((await broker.jetstream.stream_info(STREAM)).config.max_age or 0) >= GROWTH_SECONDS

    # No faster than time passes: its relay would take for lost what has gone.
    await eventually(keeps_messages_longer, 30, "the stream keeps messages for a moment only")
    assert ((await broker.jetstream.stream_info(STREAM)).config.max_age or 0) < GROWTH_SECONDS + 30


@pytest.mark.parametrize("reader", ["generation", "gateway"])
async def test_what_a_service_has_not_read_stays_in_a_full_stream(broker: BrokerHarness, reader: Service) -> None:
    await broker.fill(0.9)
    await broker.read_by("generation" if reader == "gateway" else "gateway", "auditor")
    before = (await broker.jetstream.stream_info(STREAM)).state

    [told] = await broker.provision()

    after = await broker.jetstream.stream_info(STREAM)
    assert "% full: it keeps 0." in told, told
    assert (after.state.first_seq, after.state.messages) == (before.first_seq, before.messages)
    assert (after.config.max_age or 0) >= 15 * 60
