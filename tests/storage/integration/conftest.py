"""Storage in one process, against a real object store and a real PostgreSQL."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import sqlalchemy as sa

from contracts.generation import OutputReady, OutputSought
from contracts.message import Message
from contracts.registry import BY_SUBJECT
from contracts.values import OutputClaim
from local_platform.servers import S3Server
from messaging.ids import new_id
from messaging.received import Received
from messaging.transaction import Transactions
from storage import handlers
from storage.decoders import Decoders
from storage.object_store import ObjectStore
from storage.settings import Settings
from storage.tables import assets
from storage.verification import Verifier
from storage.worker import INPUT_QUESTIONS, OUTPUT_QUESTIONS, Worker
from tests.support.databases import Database


@dataclass
class Desk:
    """Storage with everything around it."""

    s3: S3Server
    database: Database
    transactions: Transactions
    store: ObjectStore
    decoders: Decoders
    verifier: Verifier
    worker: Worker
    wake: asyncio.Event

    def upload(self, body: bytes, **stated: Any) -> tuple[UUID, OutputClaim]:
        """What a worker does: put the file under its key, and say so."""
        generation_id = stated.pop("generation_id", None) or uuid4()
        number = stated.pop("attempt_number", 1)
        key = f"{generation_id}/{number}/output.mp4"
        self.s3.client("admin").put_object(Bucket="incoming", Key=key, Body=body)
        facts: dict[str, Any] = {"size_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} | stated
        return generation_id, OutputClaim(attempt_id=uuid4(), attempt_number=number, object_key=key, **facts)

    async def ask(self, message: Message, message_id: UUID | None = None) -> None:
        """Deliver a message, and let it be worked off."""
        await self.receive(message, message_id)
        await self.finish()

    async def receive(self, message: Any, message_id: UUID | None = None) -> None:
        received = Received(
            message_id=message_id or new_id(),
            subject=message.subject,
            payload=message,
            correlation_id=message.generation_id,
            causation_id=None,
            occurred_at=None,  # type: ignore[arg-type]
            traceparent=None,
            deliveries=1,
        )
        async with self.transactions.begin() as tx:
            await handlers.ask(lambda: None)(tx, [received])

    async def finish(self) -> None:
        """Work until nothing is due or under way."""
        while True:
            await self.worker.work()
            running = list(self.worker._running)
            if not running:
                return
            await asyncio.wait(running)

    async def said(self) -> list[Any]:
        """The messages that were published, in order, decoded."""
        async with self.transactions.begin() as tx:
            rows = await tx.connection.execute(
                sa.text("SELECT subject, payload FROM storage.outbox_messages ORDER BY message_id")
            )
            return [msgspec.json.decode(row.payload, type=BY_SUBJECT[row.subject]) for row in rows]

    async def assets(self) -> list[Any]:
        async with self.transactions.begin() as tx:
            return list(await tx.connection.execute(sa.select(assets)))

    def library(self, key: str) -> bytes:
        return bytes(self.s3.client("gateway").get_object(Bucket="library", Key=key)["Body"].read())


async def due_at_once(desk: Desk) -> None:
    """Let the pause of everything that was put off, and the lease of everything that was left, be over."""
    async with desk.transactions.begin() as tx:
        statement = (
            "UPDATE storage.verifications SET next_try_at = now(), leased_until = NULL WHERE answered_at IS NULL"
        )
        await tx.connection.execute(sa.text(statement))


def ready(generation_id: UUID, claim: OutputClaim, **changes: Any) -> OutputReady:
    values: dict[str, Any] = {
        "generation_id": generation_id,
        "user_id": changes.pop("user_id", uuid4()),
        "version": 4,
        "kind": "video",
        "claim": claim,
        "expected_width_pixels": 320,
        "expected_height_pixels": 240,
        "expected_duration_ms": 2000,
        "max_size_bytes": 10_000_000,
    }
    return OutputReady(**(values | changes))


def sought(generation_id: UUID, claims: list[OutputClaim], **changes: Any) -> OutputSought:
    values: dict[str, Any] = {
        "generation_id": generation_id,
        "user_id": uuid4(),
        "version": 4,
        "kind": "video",
        "claims": tuple(claims),
        "expected_width_pixels": 320,
        "expected_height_pixels": 240,
        "expected_duration_ms": 2000,
        "max_size_bytes": 10_000_000,
    }
    return OutputSought(**(values | changes))


def settings_for(s3: S3Server, endpoint_url: str | None = None) -> Settings:
    access_key, secret_key = s3.credentials["storage"]
    return Settings.model_validate(
        {
            "database_url": "postgresql://unused",
            "nats_url": "nats://unused",
            "nats_user": "storage",
            "nats_password": "unused",
            "ops_port": 0,
            "s3_endpoint_url": endpoint_url or s3.endpoint_url,
            "s3_region": s3.region,
            "s3_access_key_id": access_key,
            "s3_secret_access_key": secret_key,
        }
    )


@pytest.fixture
async def decoders() -> AsyncIterator[Decoders]:
    decoders = Decoders(1)
    yield decoders
    await decoders.close()


@pytest.fixture
async def desk(
    s3_server: S3Server, make_database: Callable[..., Awaitable[Database]], decoders: Decoders, tmp_path: Path
) -> AsyncIterator[Desk]:
    database = await make_database("storage")
    transactions = Transactions(database.engine("storage"), producer="storage")
    settings = settings_for(s3_server)
    store = ObjectStore(settings)
    await store.open()
    verifier = Verifier(store, decoders, tmp_path, settings)
    wake = asyncio.Event()
    worker = Worker(transactions, verifier, (*OUTPUT_QUESTIONS, *INPUT_QUESTIONS), 4, wake)
    yield Desk(s3_server, database, transactions, store, decoders, verifier, worker, wake)
    await worker.stop()
    await store.close()
