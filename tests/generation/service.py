"""The whole service in this process, and peers that act as billing, storage and gateway over the real broker."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
from sqlalchemy import Row, text

from contracts.generation import (
    CancelGeneration,
    OutputReady,
    OutputSought,
)
from contracts.message import Message, Service
from contracts.registry import produced_by
from contracts.storage import AssetRejected, AssetStored, OutputMissing
from contracts.values import GenerationOrder, MediaProperties, ReportedOutput
from generation.main import build
from generation.settings import Settings
from local_platform.servers import S3Server
from local_platform.servers.ports import free_port
from messaging.consumers import Subscription
from messaging.received import Received
from messaging.runtime import Messaging
from messaging.schema import grant_statements, table_statements
from messaging.transaction import Transaction
from service_runtime.authorities import trusted_authorities
from service_runtime.listener import HttpServer, Listener
from service_runtime.presigned_urls import PresignedUrls
from service_runtime.settings import ServiceSettings
from tests.generation.harness import reserved
from tests.support.components import running as running_components
from tests.support.databases import Database
from tests.support.waiting import eventually

M = TypeVar("M", bound=Message)
BrokerOf = Callable[[str], ServiceSettings]

FAST = {
    "poll_seconds": 0.2,
    "retry_backoff_seconds": 0.1,
    "ambiguous_wait_seconds": 1.0,
    "sweep_first_seconds": 1.0,
    "sweep_interval_seconds": 1.0,
    "cancel_timeout_seconds": 5.0,
    "breaker_first_seconds": 0.5,
    "breaker_longest_seconds": 1.0,
    "runpod_timeout_seconds": 2.0,
    "lease_seconds": 4.0,
}
"""Short waits in seconds, for tests."""


def service_settings(
    database: Database, broker: ServiceSettings, s3: S3Server, runpod_api_base: str, api_key: str, **changes: Any
) -> Settings:
    """Settings of one replica against real servers; ``changes`` override the fast defaults."""
    access_key, secret_key = s3.credentials["generation"]
    port = free_port()
    values: dict[str, Any] = {
        "database_url": database.dsn("generation"),
        "nats_url": broker.nats_url,
        "nats_user": broker.nats_user,
        "nats_password": broker.nats_password,
        "ops_port": 0,
        "http_host": "127.0.0.1",
        "http_port": port,
        "runpod_api_base": runpod_api_base,
        "runpod_rest_base": runpod_api_base,
        "runpod_api_key": api_key,
        "endpoints": {"video": {"id": "video-ep"}, "image": {"id": "image-ep"}},
        "callback_base_url": f"http://127.0.0.1:{port}",
        "callback_secrets": ["a secret for tests"],
        "s3_endpoint_url": s3.endpoint_url,
        "s3_region": s3.region,
        "s3_access_key_id": access_key,
        "s3_secret_access_key": secret_key,
    }
    return Settings(**(values | FAST | changes))


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[None]:
    """One replica, from start to orderly stop."""
    service = build(settings)
    await service.start()
    listener = Listener(HttpServer(service.app, settings.http_host, settings.http_port), 2.0)
    await listener.start()
    try:
        async with running_components(service.components):
            yield
    finally:
        await listener.stop()
        await service.stop()


class Storage:
    """Acts as storage: it looks into the real bucket and accepts every file that it finds there."""

    def __init__(self, s3: S3Server) -> None:
        access_key, secret_key = s3.credentials["storage"]
        self._urls = PresignedUrls(s3.endpoint_url, s3.region, access_key, secret_key)
        self.http = httpx.AsyncClient(trust_env=False, verify=trusted_authorities())

    def subscriptions(self) -> tuple[Subscription, ...]:
        return (Subscription(OutputReady, self.verify), Subscription(OutputSought, self.look_up))

    async def verify(self, tx: Transaction, batch: Sequence[Received[OutputReady]]) -> None:
        for message in batch:
            request = message.payload
            if await self._has(request.claim):
                tx.publish(_stored(request, request.claim), cause=message)
                continue
            rejected = AssetRejected(
                generation_id=request.generation_id,
                user_id=request.user_id,
                attempt_id=request.claim.attempt_id,
                attempt_number=request.claim.attempt_number,
                code="not_found",
                detail="no such object",
            )
            tx.publish(rejected, cause=message)

    async def look_up(self, tx: Transaction, batch: Sequence[Received[OutputSought]]) -> None:
        for message in batch:
            request = message.payload
            found = [output for output in request.claims if await self._has(output)]
            if found:
                tx.publish(_stored(request, found[0]), cause=message)
                continue
            missing = OutputMissing(
                generation_id=request.generation_id, user_id=request.user_id, sought_version=request.version
            )
            tx.publish(missing, cause=message)

    async def _has(self, output: ReportedOutput) -> bool:
        answer = await self.http.get(self._urls.get("incoming", output.object_key, timedelta(minutes=1)))
        return answer.status_code == 200


class Peers:
    """The services around generation: what they tell it, and everything that they receive from it."""

    def __init__(self, database: Database, billing: Messaging, gateway: Messaging, storage: Storage) -> None:
        self.database = database
        self.storage = storage
        self._billing = billing
        self._gateway = gateway
        self._engine = database.engine("generation")
        self.received: dict[UUID, list[Message]] = {}

    async def fund(self, *orders: GenerationOrder) -> None:
        """Billing has reserved the credits."""
        async with self._billing.transactions.begin() as tx:
            for order in orders:
                tx.publish(reserved(order), correlation_id=order.generation_id)

    async def cancel(self, order: GenerationOrder) -> None:
        """The user wants it stopped."""
        command = CancelGeneration(
            generation_id=order.generation_id, user_id=order.user_id, requested_at=order.requested_at
        )
        async with self._gateway.transactions.begin() as tx:
            tx.publish(command, correlation_id=order.generation_id)

    async def receive(self, _tx: Transaction, batch: Sequence[Received[Any]]) -> None:
        for message in batch:
            self.received.setdefault(message.payload.generation_id, []).append(message.payload)

    async def until(self, order: GenerationOrder, kind: type[M], timeout: float = 20.0) -> M:
        """Wait for an event of that kind about the order, and return it."""
        return await eventually(
            lambda: next((one for one in self.received.get(order.generation_id, ()) if isinstance(one, kind)), None),
            timeout,
            f"{kind.__name__} (received {[type(one).__name__ for one in self.received.get(order.generation_id, ())]})",
        )

    def count(self, order: GenerationOrder, kind: type[Message]) -> int:
        """How many such events were received about the order."""
        return sum(isinstance(one, kind) for one in self.received.get(order.generation_id, ()))

    def kinds(self, order: GenerationOrder) -> list[str]:
        """What was received about the order, sorted by version."""
        received = self.received.get(order.generation_id, ())
        return [type(one).__name__ for one in sorted(received, key=attrgetter("version"))]

    async def costs(self, order: GenerationOrder) -> Sequence[Row[*tuple[Any, ...]]]:
        """The order's attempts, with what they took of a worker."""
        async with self._engine.connect() as connection:
            statement = "SELECT * FROM generation.attempts WHERE generation_id = :id ORDER BY attempt_number"
            return (await connection.execute(text(statement), {"id": order.generation_id})).all()

    async def attempts(self, order: GenerationOrder) -> list[str]:
        """The states of the order's attempts, in order."""
        async with self._engine.connect() as connection:
            statement = text("SELECT status FROM generation.attempts WHERE generation_id = :id ORDER BY attempt_number")
            return list((await connection.execute(statement, {"id": order.generation_id})).scalars())

    async def status(self, order: GenerationOrder) -> str:
        """The order's state in the database."""
        async with self._engine.connect() as connection:
            statement = text("SELECT status FROM generation.video_generations WHERE generation_id = :id")
            return str((await connection.execute(statement, {"id": order.generation_id})).scalar())


@asynccontextmanager
async def peers(database: Database, broker_settings: BrokerOf, s3: S3Server) -> AsyncIterator[Peers]:
    """Billing, gateway and storage, as far as generation deals with them."""
    storage = Storage(s3)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(storage.http.aclose)
        billing = await _peer(stack, database, broker_settings, "billing", ())
        made: list[Peers] = []

        async def receive(tx: Transaction, batch: Sequence[Received[Any]]) -> None:
            await made[0].receive(tx, batch)

        kinds = [kind for kind in produced_by("generation") if "gateway" in kind.consumers]
        gateway = await _peer(
            stack, database, broker_settings, "gateway", tuple(Subscription(kind, receive) for kind in kinds)
        )
        made.append(Peers(database, billing, gateway, storage))
        await _peer(stack, database, broker_settings, "storage", storage.subscriptions())
        yield made[0]


async def _peer(
    stack: AsyncExitStack,
    database: Database,
    broker_settings: BrokerOf,
    name: Service,
    subscriptions: tuple[Subscription, ...],
) -> Messaging:
    owner = database.engine(f"{name}_migrator")
    async with owner.begin() as connection:
        for statement in [*table_statements(name), *grant_statements(name, name)]:
            await connection.exec_driver_sql(statement)
    messaging = Messaging(
        service=name,
        engine=database.engine(name),
        settings=broker_settings(name),
        subscriptions=subscriptions,
    )
    await stack.enter_async_context(running_components(messaging.components()))
    return messaging


def _stored(request: OutputReady | OutputSought, output: ReportedOutput) -> AssetStored:
    return AssetStored(
        asset_id=uuid4(),
        generation_id=request.generation_id,
        user_id=request.user_id,
        attempt_id=output.attempt_id,
        attempt_number=output.attempt_number,
        object_key="library",
        poster_object_key="poster",
        size_bytes=output.size_bytes or 1,
        sha256=output.sha256 or "",
        media=MediaProperties(content_type="video/mp4", width_pixels=1, height_pixels=1, codec="h264"),
        stored_at=datetime.now(UTC),
    )
