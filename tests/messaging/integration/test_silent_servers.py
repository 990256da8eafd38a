"""Servers that say nothing, or store nothing: no component dies, readiness says the reason, and work goes on."""

import resource
from collections.abc import AsyncIterator, Callable
from uuid import UUID

import pytest
import structlog

from contracts.billing import CreditsRefused
from local_platform.servers import NatsServer, PostgresServer
from messaging import broker_watch
from messaging.broker_watch import StreamWrites
from messaging.consumers import Subscription
from messaging.errors import BrokerUnavailableError
from messaging.partitions import PartitionKeeper
from messaging.relay import OutboxGauge
from service_runtime.database import engine_for
from service_runtime.lifecycle import Component
from service_runtime.settings import ServiceSettings
from tests.messaging.integration.conftest import MessagingHarness
from tests.messaging.integration.effects import expect_effects, publish_refused, record
from tests.support import eventually
from tests.support.components import running
from tests.support.databases import Database
from tests.support.tcp_proxy import TcpProxy, tcp_proxy


@pytest.fixture
async def proxy(postgres_server: PostgresServer) -> AsyncIterator[TcpProxy]:
    async with tcp_proxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
async def proxied(
    database: Database,
    proxy: TcpProxy,
    nats_server: NatsServer,
    broker_settings: Callable[[str], ServiceSettings],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[MessagingHarness]:
    """Services that reach the database through ``proxy``, and wait for it for about a second."""
    monkeypatch.setattr("service_runtime.database.CONNECT_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr("service_runtime.database.POOL_TIMEOUT_SECONDS", 1.0)
    assert engine_for.__kwdefaults__ is not None
    monkeypatch.setitem(engine_for.__kwdefaults__, "statement_timeout_ms", 1000)
    monkeypatch.setattr("service_runtime.database.COMMAND_TIMEOUT_SECONDS", 0.2)
    direct = dict(database.dsns)
    for role in ("billing", "gateway"):
        database.dsns[role] = proxy.through(direct[role])
    made = MessagingHarness(database, nats_server, broker_settings)
    yield made
    proxy.resume()
    await made.stop()
    database.dsns.update(direct)


async def test_no_component_dies_of_a_database_that_says_nothing(proxied: MessagingHarness, proxy: TcpProxy) -> None:
    billing = await proxied.start("billing")
    await proxied.start("gateway", [Subscription(CreditsRefused, record)])
    ids = await publish_refused(billing.transactions, 10)
    await expect_effects(proxied.engine("gateway"), ids)

    with structlog.testing.capture_logs() as logs:
        proxy.silence()
        impatient: list[Component] = [
            OutboxGauge("billing", proxied.database.engine("billing"), seconds=0.05),
            PartitionKeeper("billing", proxied.database.engine("billing")),
        ]
        async with running(impatient):
            seen = {"outbox_not_measured", "partitions_not_maintained", "relay_paused", "broker_memory_not_checked"}
            await eventually(lambda: seen <= {line["event"] for line in logs}, 20, "each component's complaint")
        proxy.resume()

    ids += await publish_refused(billing.transactions, 10, 10)
    await expect_effects(proxied.engine("gateway"), ids, timeout=20)


async def test_messages_flow_on_when_the_established_connections_are_cut(
    proxied: MessagingHarness, proxy: TcpProxy
) -> None:
    billing = await proxied.start("billing")
    await proxied.start("gateway", [Subscription(CreditsRefused, record)])
    first = await publish_refused(billing.transactions, 10)
    await expect_effects(proxied.engine("gateway"), first)
    proxy.silence_established()

    second: list[UUID] = []

    async def committed() -> bool:
        try:
            second.extend(await publish_refused(billing.transactions, 10, 10))
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}") from error
        return True

    await eventually(committed)
    # The test's own look goes through the proxy, too: its old connections are dead.
    await proxied.engine("gateway").dispose()
    await expect_effects(proxied.engine("gateway"), [*first, *second], timeout=20)


async def test_a_broker_that_stores_nothing_is_not_ready_until_it_is_restarted(
    harness: MessagingHarness, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: the server answers everything, and says nothing to a publish, even when there is space again."""
    monkeypatch.setattr("messaging.relay.PUBLISH_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(broker_watch, "REFUSED_SECONDS", 1.0)
    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])
    ids = await publish_refused(billing.transactions, 1)
    await expect_effects(harness.engine("gateway"), ids)
    await billing.watch.ready()
    assert nats_server.write_error() is None

    resource.prlimit(nats_server.pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    ids += await publish_refused(billing.transactions, 20, 1)

    async def reason() -> str | None:
        try:
            await billing.watch.ready()
        except BrokerUnavailableError as error:
            return str(error)
        return None

    assert await eventually(reason) == "JetStream stores no messages: BILLING (timeout)"
    resource.prlimit(nats_server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert "write error" in (nats_server.write_error() or "")
    await nats_server.stop()
    await nats_server.start()
    await expect_effects(harness.engine("gateway"), ids, timeout=20)

    async def ready() -> bool:
        return await reason() is None

    await eventually(ready)


def test_a_refusal_is_forgotten_when_a_message_is_stored_or_no_more_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("messaging.broker_watch.time.monotonic", lambda: now)
    writes = StreamWrites()
    writes.refused("BILLING", "timeout")
    assert writes.failing() == {}, "one refusal may be an election"
    now = broker_watch.REFUSED_SECONDS
    writes.refused("BILLING", "stream_full")
    assert writes.failing() == {"BILLING": "stream_full"}
    writes.accepted("BILLING")
    assert writes.failing() == {}
    writes.refused("BILLING", "timeout")
    now += broker_watch.REFUSED_SECONDS
    assert writes.failing()
    now += broker_watch.FORGET_SECONDS
    assert writes.failing() == {}
