"""Storage as a process: real messages, real kills, nothing is lost and nothing is left behind."""

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psutil
import pytest
import sqlalchemy as sa

from contracts import headers
from contracts.message import Message
from contracts.storage import DIGITAL_SOURCE_TYPE, AssetStored, InputsVerified
from local_platform.marks import Mark, mark_of
from local_platform.servers import NatsServer
from messaging.broker import Broker
from messaging.failpoints import VARIABLE
from messaging.ids import new_id
from service_runtime.settings import ServiceSettings
from storage.workspace import create_workspace
from tests.storage.integration.conftest import CREDENTIALS, StorageHarness, output_lookup, output_ready, verify_inputs
from tests.support.fork_server import ForkedProcess, start_forked
from tests.support.media import clip, endless_photograph, frames_of, picture
from tests.support.service_processes import is_running
from tests.support.waiting import eventually

Publish = Callable[[Message], Any]
INTAKE = ("consumer.before_commit", "transaction.before_commit", "transaction.after_commit", "lease.after_claim")
"""The first passages: a request is recorded and claimed by one statement."""
FAILPOINTS = (*INTAKE, "storage.before_put", "storage.after_put", "storage.before_record", "storage.after_record")


@pytest.fixture
async def publish(broker_settings: Callable[[str], ServiceSettings]) -> AsyncIterator[Publish]:
    """Publish messages as generation does."""
    broker = Broker.of(broker_settings("generation"), name="generation")
    await broker.connect()

    async def to_the_broker(message: Any, message_id: UUID | None = None) -> None:
        values = {
            headers.MESSAGE_ID: str(message_id or new_id()),
            headers.CORRELATION_ID: str(message.generation_id),
            headers.OCCURRED_AT: datetime.now(UTC).isoformat(),
            headers.PRODUCER: "generation",
        }

        await broker.jetstream.publish(message.subject, msgspec.json.encode(message), headers=values)

    yield to_the_broker
    await broker.close()


@asynccontextmanager
async def process(
    storage: StorageHarness, nats: NatsServer, failpoint: str = "", **more_environment: str
) -> AsyncIterator[ForkedProcess]:
    """A process of storage. It must stop in order when it gets SIGTERM."""
    access_key, secret_key = storage.s3.credentials["storage"]
    started = await start_forked(
        "storage.main",
        "serve",
        environment={
            "PATH": os.environ["PATH"],
            "STORAGE_DATABASE_URL": storage.database.dsn("storage"),
            "STORAGE_NATS_URL": nats.url,
            "STORAGE_NATS_USER": "storage",
            "STORAGE_NATS_PASSWORD": nats.users["storage"],
            "STORAGE_OPS_HOST": "127.0.0.1",
            "STORAGE_OPS_PORT": "0",
            "STORAGE_POLL_SECONDS": "0.2",
            "STORAGE_DECODER_PROCESSES": "1",
            # They have their own tests.
            "STORAGE_PREVIEWS": "off",
            "STORAGE_S3_ENDPOINT_URL": storage.s3.endpoint_url,
            "STORAGE_S3_REGION": storage.s3.region,
            "STORAGE_S3_ACCESS_KEY_ID": access_key,
            "STORAGE_S3_SECRET_ACCESS_KEY": secret_key,
            "STORAGE_MARKING_KEY": CREDENTIALS.key,
            "STORAGE_MARKING_CERTIFICATES": CREDENTIALS.certificates,
            VARIABLE: failpoint,
            **more_environment,
        },
    )
    try:
        yield started
        if started.returncode is None:
            started.terminate()
            assert await asyncio.wait_for(started.wait(), 30) == 0
    finally:
        started.kill()
        await started.wait()


async def published_by(storage: StorageHarness, count: int) -> list[Any]:
    """The published messages, once ``count`` of them have reached the broker."""

    async def delivered() -> bool:
        async with storage.transactions.begin() as tx:
            query = "SELECT count(*) FROM storage.outbox_messages WHERE published_at IS NOT NULL"
            return bool(await tx.connection.scalar(sa.text(query)) == count)

    # The process is only starting.
    await eventually(delivered, timeout=60, what=f"{count} published messages")
    return await storage.published()


async def test_files_are_stored_once_and_the_process_stops_in_order(
    storage: StorageHarness, nats_server: NatsServer, publish: Publish
) -> None:
    async with process(storage, nats_server):
        requests = []
        for _ in range(5):
            generation_id, reported = storage.upload_output(clip())
            requests.append(output_ready(generation_id, reported))
        for request in (*requests, *requests):
            await publish(request)
        # Two messages request each file: it is announced twice and stored once.
        messages = await published_by(storage, 10)
        async with storage.transactions.begin() as tx:
            checkpoint = "SELECT max(sequence) FROM storage.relay_positions WHERE holder <> 'relay'"
            assert await tx.connection.scalar(sa.text(checkpoint)) >= 10, "what was acknowledged has a checkpoint"
    assert {type(message) for message in messages} == {AssetStored}
    assert len({message.asset_id for message in messages}) == 5
    assert len(await storage.assets()) == 5


async def test_two_replicas_share_the_work_and_do_each_request_once(
    storage: StorageHarness, nats_server: NatsServer, publish: Publish
) -> None:
    owner, requests = uuid4(), []
    for _ in range(12):
        upload_id = uuid4()
        storage.s3.client("gateway").put_object(Bucket="uploads", Key=f"{owner}/{upload_id}", Body=picture())
        requests.append(verify_inputs(owner, upload_id))
    async with process(storage, nats_server), process(storage, nats_server):
        for request in requests:
            await publish(request)
        answers = await published_by(storage, len(requests))
    assert {type(answer) for answer in answers} == {InputsVerified}
    assert {answer.generation_id for answer in answers} == {request.generation_id for request in requests}


async def test_an_output_does_not_wait_for_slow_uploads(
    storage: StorageHarness, nats_server: NatsServer, publish: Publish
) -> None:
    """A user can have hundreds of unpaid orders, each with a picture that takes as long as it may."""
    owner, upload_id = uuid4(), uuid4()
    hostile = endless_photograph(scans=20_000)
    storage.s3.client("gateway").put_object(Bucket="uploads", Key=f"{owner}/{upload_id}", Body=hostile)
    async with process(storage, nats_server, STORAGE_CONCURRENCY="2"):
        for _ in range(10):
            await publish(verify_inputs(owner, upload_id))

        async def all_received() -> bool:
            async with storage.transactions.begin() as tx:
                return bool(await tx.connection.scalar(sa.text("SELECT count(*) FROM storage.verifications")) == 10)

        await eventually(all_received, timeout=20)
        generation_id, reported = storage.upload_output(clip())
        await publish(output_ready(generation_id, reported))
        (stored,) = await published_by(storage, 1)
    assert isinstance(stored, AssetStored)


@pytest.mark.parametrize("failpoint", FAILPOINTS)
async def test_a_kill_at_any_failpoint_ends_in_one_asset_and_one_message(
    storage: StorageHarness, nats_server: NatsServer, publish: Publish, failpoint: str
) -> None:
    body = clip()
    generation_id, reported = storage.upload_output(body)
    async with process(storage, nats_server, failpoint) as doomed:
        await publish(output_lookup(generation_id, [reported]))
        assert await asyncio.wait_for(doomed.wait(), 30) == -signal.SIGKILL
    # Instead of waiting until the lease of the killed process expires.
    await storage.make_due()
    async with process(storage, nats_server):
        (stored,) = await published_by(storage, 1)
    assert isinstance(stored, AssetStored)
    delivered = storage.library(stored.object_key)
    assert stored.sha256 == hashlib.sha256(delivered).hexdigest()
    assert frames_of(delivered) == frames_of(body)
    assert mark_of(delivered, "video/mp4", CREDENTIALS.root) == Mark("Trusted", "c2pa.created", DIGITAL_SOURCE_TYPE)
    assert len(await storage.assets()) == 1


async def test_a_start_removes_the_files_of_killed_processes_only(
    storage: StorageHarness, nats_server: NatsServer, publish: Publish, tmp_path: Path
) -> None:
    def files() -> list[Path]:
        return [path for path in tmp_path.rglob("*") if path.is_file()]

    generation_id, reported = storage.upload_output(clip())
    async with process(storage, nats_server, "storage.before_put", TMPDIR=str(tmp_path)) as doomed:
        await publish(output_ready(generation_id, reported))
        assert await asyncio.wait_for(doomed.wait(), 30) == -signal.SIGKILL
    assert files()
    living = create_workspace(tmp_path) / "file"
    living.touch()
    async with process(storage, nats_server, TMPDIR=str(tmp_path)):
        await storage.make_due()
        await published_by(storage, 1)
        await eventually(lambda: files() == [living])
    assert os.listdir(tmp_path) == [living.parent.name]


async def test_decoders_exit_when_the_service_is_killed(
    storage: StorageHarness, nats_server: NatsServer, publish: Publish
) -> None:
    async with process(storage, nats_server) as service:
        # The first result shows that it is up.
        generation_id, reported = storage.upload_output(clip())
        await publish(output_ready(generation_id, reported))
        await published_by(storage, 1)
        children = [child.pid for child in psutil.Process(service.pid).children()]
        assert children
        service.kill()
        await service.wait()
        await eventually(lambda: not any(is_running(child) for child in children), what="the exit of the decoders")
