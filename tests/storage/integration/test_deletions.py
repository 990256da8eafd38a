"""What a user deletes leaves the library whole and for good, whatever fails and whatever comes late."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Protocol
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.message import Service
from contracts.storage import AssetStored, DeleteFiles, FilesDeleted
from local_platform.servers import NatsServer, S3Server
from messaging.ids import new_id
from messaging.leased_worker import LeasedWorker
from messaging.leases import LeasedTable
from messaging.received import Received
from messaging.transaction import Transaction
from storage import repository
from storage.deletions import Deletions, request_deletion
from storage.object_store import ObjectStore
from storage.repository import ClaimedDeletion, NewDeletion
from storage.tables import DELETIONS
from tests.messaging.leases.case import LeaseCase
from tests.messaging.leases.conformance import LeaseRules
from tests.storage.integration.conftest import StorageHarness, output_ready, settings_for
from tests.storage.integration.test_service import Publish, process, publish
from tests.support.media import clip
from tests.support.waiting import eventually

__all__ = ["publish"]


@pytest.fixture
async def worker(storage: StorageHarness) -> AsyncIterator[LeasedWorker[ClaimedDeletion]]:
    """Carries out deletions, within the test."""
    worker = Deletions(storage.transactions, storage.store).worker(3600.0, asyncio.Event())
    yield worker
    await worker.drain()


async def stored(storage: StorageHarness, **where: Any) -> AssetStored:
    """A clip in the library."""
    generation_id, reported = storage.upload_output(clip(), **where)
    await storage.verify(output_ready(generation_id, reported))
    return [message for message in await storage.published() if isinstance(message, AssetStored)][-1]


class Owned(Protocol):
    """A generation of a user: an asset of it, or the request for one."""

    @property
    def generation_id(self) -> UUID: ...
    @property
    def user_id(self) -> UUID: ...


async def ask(storage: StorageHarness, owned: Owned, message_id: UUID | None = None) -> None:
    """Deliver the gateway's command."""
    command = DeleteFiles(generation_id=owned.generation_id, user_id=owned.user_id, requested_at=datetime.now(UTC))
    received = Received(
        message_id=message_id or new_id(),
        subject=command.subject,
        payload=command,
        correlation_id=command.generation_id,
        causation_id=None,
        occurred_at=command.requested_at,
        traceparent=None,
        deliveries=1,
    )
    async with storage.transactions.begin() as tx:
        await request_deletion(lambda: None)(tx, [received])


async def carry_out(worker: LeasedWorker[ClaimedDeletion]) -> None:
    while await worker.fill():
        await worker.idle()


def keys(storage: StorageHarness, generation_id: UUID) -> list[str]:
    listed = storage.s3.client("admin").list_objects_v2(Bucket="library")
    return [one["Key"] for one in listed.get("Contents", ()) if str(generation_id) in one["Key"]]


async def events(storage: StorageHarness) -> list[FilesDeleted]:
    return [message for message in await storage.published() if isinstance(message, FilesDeleted)]


async def test_every_file_of_a_generation_goes_and_those_of_others_stay(
    storage: StorageHarness, worker: LeasedWorker[ClaimedDeletion]
) -> None:
    asset, other = await stored(storage), await stored(storage)
    leftover = f"{asset.user_id}/{asset.generation_id}/poster-of-the-attempt-that-lost.jpg"
    storage.s3.client("storage").put_object(Bucket="library", Key=leftover, Body=b"a poster")
    await ask(storage, asset)
    await carry_out(worker)
    assert keys(storage, asset.generation_id) == []
    assert len(keys(storage, other.generation_id)) == 2
    (event,) = await events(storage)
    assert (event.generation_id, event.user_id) == (asset.generation_id, asset.user_id)
    assert len(await storage.assets()) == 2, "the record of what was sold stays"


async def test_a_delete_that_comes_again_is_done_again_and_a_repetition_is_not(
    storage: StorageHarness, worker: LeasedWorker[ClaimedDeletion]
) -> None:
    asset, first = await stored(storage), new_id()
    await ask(storage, asset, first)
    await carry_out(worker)
    await ask(storage, asset, first)
    await carry_out(worker)
    assert len(await events(storage)) == 1
    # Somebody with a token put it back.
    storage.s3.client("storage").put_object(Bucket="library", Key=asset.object_key, Body=b"back")
    await ask(storage, asset)
    await carry_out(worker)
    assert keys(storage, asset.generation_id) == []
    assert len(await events(storage)) == 2


async def test_a_file_that_is_stored_late_goes_too(
    storage: StorageHarness, worker: LeasedWorker[ClaimedDeletion]
) -> None:
    generation_id, reported = storage.upload_output(clip())
    request = output_ready(generation_id, reported)
    await ask(storage, request)
    await carry_out(worker)
    await storage.verify(request)
    assert len(keys(storage, generation_id)) == 2
    await carry_out(worker)
    assert keys(storage, generation_id) == []


async def test_a_worker_that_passed_a_new_file_by_cannot_say_that_all_are_gone(
    storage: StorageHarness, worker: LeasedWorker[ClaimedDeletion], monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id, reported = storage.upload_output(clip())
    request = output_ready(generation_id, reported)
    await ask(storage, request)
    delete_folder = ObjectStore.delete_folder

    async def delete_before_the_file_comes(store: ObjectStore, folder: str) -> int:
        removed = await delete_folder(store, folder)
        monkeypatch.undo()
        await storage.verify(request)
        return removed

    monkeypatch.setattr(ObjectStore, "delete_folder", delete_before_the_file_comes)
    await worker.fill()
    await worker.idle()
    assert await events(storage) == []
    await carry_out(worker)
    assert keys(storage, generation_id) == []
    assert len(await events(storage)) == 1


async def test_a_store_that_is_away_delays_a_deletion(storage: StorageHarness, s3_server: S3Server) -> None:
    asset = await stored(storage)
    await ask(storage, asset)
    store = ObjectStore(settings_for(s3_server, "http://127.0.0.1:9"))
    await store.open()
    worker = Deletions(storage.transactions, store).worker(3600.0, asyncio.Event())
    await carry_out(worker)
    await worker.drain()
    await store.close()
    async with storage.transactions.begin() as tx:
        (row,) = await tx.connection.execute(sa.text("SELECT tries, due_at > now() AS later FROM storage.deletions"))
    assert (row.tries, row.later) == (1, True)
    assert len(keys(storage, asset.generation_id)) == 2


async def test_a_kill_at_any_failpoint_ends_in_no_file_and_one_message(
    storage: StorageHarness, nats_server: NatsServer, publish: Publish
) -> None:
    asset = await stored(storage)
    await ask(storage, asset)
    for failpoint in ("storage.before_delete", "storage.after_delete", ""):
        async with process(storage, nats_server, failpoint) as service:
            if failpoint:
                assert await asyncio.wait_for(service.wait(), 30) == -signal.SIGKILL
            else:
                await gone(storage)
        # Instead of waiting until the lease of the killed process expires.
        await storage.execute("UPDATE storage.deletions SET leased_until = NULL WHERE due_at IS NOT NULL")
    assert keys(storage, asset.generation_id) == []
    assert len(await events(storage)) == 1


async def gone(storage: StorageHarness) -> None:
    async def deleted() -> bool:
        return bool(await events(storage))

    await eventually(deleted, timeout=60, what="the end of the deletion")


class DeletionCase(LeaseCase):
    """Deletions, claimed by storage's own query."""

    service: ClassVar[Service] = "storage"
    table: ClassVar[LeasedTable] = DELETIONS
    completed: ClassVar[Mapping[str, Any]] = {"deleted_at": sa.func.now()}

    async def add(self, tx: Transaction, count: int) -> None:
        requested = [
            NewDeletion(
                generation_id=uuid4(),
                user_id=uuid4(),
                message_id=new_id(),
                traceparent=None,
                requested_at=datetime.now(UTC),
            )
            for _ in range(count)
        ]
        await repository.add_deletions(tx.connection, requested)

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[ClaimedDeletion]:
        return await repository.claim_deletions(connection, room, lease)


class TestDeletionLeases(LeaseRules):
    case = DeletionCase
