"""Storage in one process, against a real object store and a real PostgreSQL."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import msgspec
import pytest
import sqlalchemy as sa

from contracts.generation import OutputReady, OutputSought
from contracts.message import Message
from contracts.registry import BY_SUBJECT
from contracts.storage import VerifyInputs
from contracts.values import ReportedOutput
from local_platform.marking_credentials import MarkingCredentials, make_marking_credentials
from local_platform.servers import S3Server
from messaging.ids import new_id
from messaging.leased_worker import LeasedWorker
from messaging.received import Received
from messaging.transaction import Transactions
from storage.decoders import Decoders
from storage.due_work import INPUT_SUBJECTS, OUTPUT_SUBJECTS
from storage.handlers import Request, VerificationHandler, request_verification
from storage.intake import Intake, Work
from storage.object_store import ObjectStore
from storage.settings import Settings
from storage.signing import signer_of
from storage.tables import assets
from storage.verification import Verifier
from storage.worker import Verifications
from tests.support.databases import Database, MakeDatabase

M = TypeVar("M", bound=Message)

CREDENTIALS: Final[MarkingCredentials] = make_marking_credentials()
"""What outputs are marked with in these tests."""


@dataclass
class StorageHarness:
    """Storage with everything around it."""

    s3: S3Server
    database: Database
    transactions: Transactions
    store: ObjectStore
    decoders: Decoders
    verifier: Verifier
    worker: LeasedWorker[Work]
    intake: Intake = field(default_factory=lambda: Intake(asyncio.Event()))
    """Without a worker: what it records is due."""

    def upload_output(
        self, body: bytes, generation_id: UUID | None = None, attempt_number: int = 1, **reported: Any
    ) -> tuple[UUID, ReportedOutput]:
        """Do what a GPU worker does: put the file under its key, and report it."""
        generation_id = generation_id or uuid4()
        key = f"{generation_id}/{attempt_number}/output.mp4"
        self.s3.client("admin").put_object(Bucket="incoming", Key=key, Body=body)
        facts: dict[str, Any] = {"size_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} | reported
        return generation_id, ReportedOutput(attempt_id=uuid4(), attempt_number=attempt_number, object_key=key, **facts)

    def upload_input(self, owner: UUID, body: bytes) -> UUID:
        """Do what a user does: put a picture under a key of their own. Returns the id of the upload."""
        upload_id = uuid4()
        self.s3.client("gateway").put_object(Bucket="uploads", Key=f"{owner}/{upload_id}", Body=body)
        return upload_id

    async def verify(self, request: Request, message_id: UUID | None = None) -> None:
        """Deliver a request, and process everything that is due."""
        await self.receive(request, message_id)
        await self.process_all()

    async def receive(self, request: Request, message_id: UUID | None = None) -> None:
        """Deliver a request."""
        received = Received(
            message_id=message_id or new_id(),
            subject=request.subject,
            payload=request,
            correlation_id=request.generation_id,
            causation_id=None,
            occurred_at=datetime.now(UTC),
            traceparent=None,
            deliveries=1,
        )
        async with self.transactions.begin() as tx:
            await request_verification(self.intake)(tx, [received])

    async def process_all(self) -> None:
        """Work until nothing is due or in progress."""
        while await self.worker.fill():
            await self.worker.idle()

    async def make_due(self) -> None:
        """End the pause of everything that was postponed, and the lease of everything that was abandoned."""
        await self.execute(
            "UPDATE storage.verifications SET next_try_at = now(), leased_until = NULL WHERE answered_at IS NULL"
        )

    async def execute(self, statement: str) -> None:
        """Run a statement with the rights of the service."""
        async with self.transactions.begin() as tx:
            await tx.connection.execute(sa.text(statement))

    async def published(self) -> list[Message]:
        """The published messages, in order."""
        async with self.transactions.begin() as tx:
            rows = await tx.connection.execute(
                sa.text("SELECT subject, payload FROM storage.outbox_messages ORDER BY message_id")
            )
            return [msgspec.json.decode(row.payload, type=BY_SUBJECT[row.subject]) for row in rows]

    async def only(self, kind: type[M]) -> M:
        """The one message that was published, which is of this type."""
        (message,) = await self.published()
        assert isinstance(message, kind)
        return message

    async def assets(self) -> list[sa.Row[Any]]:
        async with self.transactions.begin() as tx:
            return list(await tx.connection.execute(sa.select(assets)))

    def library(self, key: str) -> bytes:
        return bytes(self.s3.client("gateway").get_object(Bucket="library", Key=key)["Body"].read())


def output_ready(generation_id: UUID, reported: ReportedOutput, **changes: Any) -> OutputReady:
    values: dict[str, Any] = {"claim": reported, "kind": "video", "version": 4}
    return OutputReady(generation_id=generation_id, **(values | _expected() | changes))


def output_lookup(generation_id: UUID, candidates: list[ReportedOutput], **changes: Any) -> OutputSought:
    values: dict[str, Any] = {"claims": tuple(candidates), "kind": "video", "version": 4}
    return OutputSought(generation_id=generation_id, **(values | _expected() | changes))


def verify_inputs(user_id: UUID, upload_id: UUID) -> VerifyInputs:
    return VerifyInputs(generation_id=uuid4(), user_id=user_id, uploads={"image": upload_id})


def _expected() -> dict[str, Any]:
    """What ``clip()`` is."""
    return {
        "user_id": uuid4(),
        "expected_width_pixels": 320,
        "expected_height_pixels": 240,
        "expected_duration_ms": 2000,
        "max_size_bytes": 10_000_000,
    }


def worker_for(transactions: Transactions, verifier: Verifier) -> LeasedWorker[Work]:
    """A worker for all requests, with four slots. It never polls within a test."""
    verifications = Verifications(
        transactions, VerificationHandler(transactions, verifier), (*OUTPUT_SUBJECTS, *INPUT_SUBJECTS)
    )
    return verifications.worker("test", 4, 3600.0, Intake(asyncio.Event()))


def settings_for(s3: S3Server, endpoint_url: str | None = None) -> Settings:
    access_key, secret_key = s3.credentials["storage"]
    return Settings.model_validate(
        {
            "database_url": "postgresql://unused",
            "nats_url": "nats://unused",
            "nats_user": "storage",
            "nats_password": "unused-here",
            "ops_port": 0,
            "s3_endpoint_url": endpoint_url or s3.endpoint_url,
            "s3_region": s3.region,
            "s3_access_key_id": access_key,
            "s3_secret_access_key": secret_key,
            "marking_key": CREDENTIALS.key,
            "marking_certificates": CREDENTIALS.certificates,
        }
    )


@pytest.fixture
async def decoders(s3_server: S3Server) -> AsyncIterator[Decoders]:
    decoders = Decoders(1, signer=signer_of(settings_for(s3_server)))
    yield decoders
    await decoders.stop()


@pytest.fixture
async def storage(
    s3_server: S3Server, make_database: MakeDatabase, decoders: Decoders, tmp_path: Path
) -> AsyncIterator[StorageHarness]:
    database = await make_database("storage")
    transactions = Transactions(database.engine("storage"), producer="storage")
    settings = settings_for(s3_server)
    store = ObjectStore(settings)
    await store.open()
    verifier = Verifier(store, decoders, tmp_path, settings)
    worker = worker_for(transactions, verifier)
    yield StorageHarness(s3_server, database, transactions, store, decoders, verifier, worker)
    await worker.drain()
    await store.close()
