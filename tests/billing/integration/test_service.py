"""Billing as a running service: real messages, a real broker, several replicas."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from billing import conservation
from billing.consumers import subscriptions
from contracts import headers
from contracts.message import Message, Service
from local_platform.servers import NatsServer
from messaging.broker import Broker
from messaging.ids import new_id
from messaging.runtime import Messaging
from messaging.settings import ConsumerLimits
from service_runtime.settings import ServiceSettings
from tests.billing.ledger_harness import LedgerHarness, cancelled, clawback, completed, failed, grant, order
from tests.support import eventually
from tests.support.databases import Database
from tests.support.fork_server import ForkedProcess, start_forked

BrokerSettingsOf = Callable[[str], ServiceSettings]


class NeighboursHarness:
    """Drives billing as the other services do: their streams exist, and their messages arrive."""

    def __init__(self, brokers: dict[Service, Broker]) -> None:
        self._brokers = brokers

    async def publish(self, service: Service, messages: Sequence[Message], ids: Sequence[UUID] | None = None) -> None:
        for message, message_id in zip(messages, ids or [new_id() for _ in messages], strict=True):
            values = {
                headers.MESSAGE_ID: str(message_id),
                headers.CORRELATION_ID: str(uuid4()),
                headers.OCCURRED_AT: datetime.now(UTC).isoformat(),
                headers.PRODUCER: service,
            }
            payload = msgspec.json.encode(message)
            await self._brokers[service].jetstream.publish(message.subject, payload, headers=values)


@pytest.fixture
async def neighbours(broker_settings: BrokerSettingsOf) -> AsyncIterator[NeighboursHarness]:
    async with AsyncExitStack() as stack:
        brokers: dict[Service, Broker] = {}
        names: tuple[Service, ...] = ("gateway", "generation", "payments")
        for name in names:
            brokers[name] = Broker.of(broker_settings(name), name=name)
            await brokers[name].connect()
            stack.push_async_callback(brokers[name].close)
        yield NeighboursHarness(brokers)


@asynccontextmanager
async def replica(database: Database, nats: NatsServer) -> AsyncIterator[ForkedProcess]:
    """A process of the service; it must stop in order on SIGTERM."""
    process = await start_forked(
        "billing.main",
        "serve",
        environment={
            "BILLING_DATABASE_URL": database.dsn("billing"),
            "BILLING_NATS_URL": nats.url,
            "BILLING_NATS_USER": "billing",
            "BILLING_NATS_PASSWORD": nats.users["billing"],
            "BILLING_OPS_HOST": "127.0.0.1",
            "BILLING_OPS_PORT": "0",
            "BILLING_SWEEP_SECONDS": "0.2",
        },
    )
    try:
        yield process
        process.terminate()
        assert await process.wait() == 0
    finally:
        process.kill()
        await process.wait()


@pytest.mark.timeout(180)
async def test_three_replicas_reserve_and_resolve_each_order_once(
    ledger: LedgerHarness, database: Database, nats_server: NatsServer, neighbours: NeighboursHarness
) -> None:
    chance = random.Random(7)
    users = [uuid4() for _ in range(20)]
    requests = [order(user, 10) for user in users for _ in range(10)]
    chance.shuffle(requests)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(replica(database, nats_server))

        await neighbours.publish("payments", [grant(user, 30, "purchase", payment_id=uuid4()) for user in users])

        async def granted() -> bool:
            return bool(await ledger.scalar("SELECT coalesce(sum(available_credits), 0) = 600 FROM billing.users"))

        await eventually(granted, timeout=60)  # The replicas are only starting.
        await neighbours.publish("gateway", requests)
        await neighbours.publish("gateway", chance.sample(requests, 50))

        async def decided() -> bool:
            query = "SELECT (SELECT count(*) FROM billing.reservations) + (SELECT count(*) FROM billing.refusals) = 200"
            return bool(await ledger.scalar(query))

        await eventually(decided, timeout=30)
        assert [await ledger.balance(user) for user in users] == [(0, 30, 0)] * 20
        outcomes = [
            outcome
            for request in requests
            for outcome in (
                completed(request.order.user_id, request.order.generation_id, 10),
                cancelled(request.order.user_id, request.order.generation_id),
                failed(request.order.user_id, request.order.generation_id),
            )
            if await _reserved(ledger, request.order.generation_id)
        ]
        chance.shuffle(outcomes)
        await neighbours.publish("generation", outcomes)

        async def resolved_and_sealed() -> bool:
            query = """
                SELECT (SELECT count(*) FROM billing.reservation_resolutions) = 60
                   AND (SELECT max(through_posting_id) FROM billing.ledger_seals)
                       >= (SELECT max(posting_id) FROM billing.balance_ledger)
                   AND NOT EXISTS (SELECT FROM billing.outbox_messages WHERE published_at IS NULL)
            """
            return bool(await ledger.scalar(query))

        await eventually(resolved_and_sealed, timeout=30)
    assert await ledger.scalar("SELECT count(*) FROM billing.dead_letters") == 0
    assert await conservation.check(ledger.engine) == []
    assert await ledger.scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    events = """
        SELECT count(*) FROM billing.outbox_messages
        WHERE subject IN ('billing.event.credits-captured.v1', 'billing.event.credits-released.v1')
    """
    assert await ledger.scalar(events) == 60


async def _reserved(ledger: LedgerHarness, generation_id: UUID) -> bool:
    query = "SELECT EXISTS (SELECT FROM billing.reservations WHERE generation_id = :generation_id)"
    return bool(await ledger.scalar(query, generation_id=generation_id))


@pytest.fixture
async def running(ledger: LedgerHarness, broker_settings: BrokerSettingsOf) -> AsyncIterator[None]:
    """Billing's messaging in this process, which dead-letters a message after one delivery."""
    messaging = Messaging(
        service="billing",
        engine=ledger.engine,
        settings=broker_settings("billing"),
        subscriptions=subscriptions(),
        limits=ConsumerLimits(max_deliveries=1),
    )
    tasks = [asyncio.create_task(component.run()) for component in messaging.components()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_completion_that_overtakes_its_reservation_captures_all_the_same(
    ledger: LedgerHarness, neighbours: NeighboursHarness, running: Any
) -> None:
    user = uuid4()
    await ledger.grant(user, 30)
    request = order(user, 20)
    await neighbours.publish("generation", [completed(user, request.order.generation_id, 20)])

    async def deferred() -> bool:
        return bool(await ledger.scalar("SELECT count(*) FROM billing.delivery_attempts WHERE deferrals > 0"))

    await eventually(deferred)
    await neighbours.publish("gateway", [request])

    async def captured() -> bool:
        return await ledger.balance(user) == (10, 0, 0)

    await eventually(captured)


async def test_a_capture_beyond_the_reservation_is_dead_lettered_alone(
    ledger: LedgerHarness, neighbours: NeighboursHarness, running: Any
) -> None:
    user = uuid4()
    await ledger.grant(user, 30)
    poisoned, sound = await ledger.reserve(user, 10), await ledger.reserve(user, 10)
    await neighbours.publish("generation", [completed(user, poisoned, 11), completed(user, sound, 10)])

    async def dead_lettered() -> bool:
        return bool(await ledger.scalar("SELECT count(*) FROM billing.dead_letters"))

    await eventually(dead_lettered)

    async def captured() -> bool:
        return await ledger.balance(user) == (10, 10, 0)

    await eventually(captured)
    error = await ledger.scalar("SELECT error FROM billing.dead_letters")
    assert error.startswith("CaptureExceedsReservation")


async def test_a_clawback_that_overtakes_its_purchase_ends_the_same(
    ledger: LedgerHarness, neighbours: NeighboursHarness, running: Any
) -> None:
    user, payment = uuid4(), uuid4()

    async def published() -> bool:
        try:
            await neighbours.publish("payments", [clawback(user, 60, payment)], [payment])
        except Exception as error:
            raise AssertionError("the stream is not there yet") from error
        return True

    await eventually(published)
    await neighbours.publish("payments", [grant(user, 100, "purchase", payment_id=payment)])

    async def settled() -> bool:
        return await ledger.balance(user) == (40, 0, 0)

    await eventually(settled)
