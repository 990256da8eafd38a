"""Previews are made after their output, marked like it, and gone with it; without them an output is as good as any."""

import asyncio
import hashlib
import io
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Final
from uuid import uuid4

import msgspec
import psutil
import pytest
import sqlalchemy as sa
from PIL import Image
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.message import Service
from contracts.object_keys import thumbnail_key
from contracts.storage import DIGITAL_SOURCE_TYPE, AssetStored, FilesDeleted, PreviewsStored
from contracts.values import MediaProperties
from local_platform.marks import Mark, mark_of
from local_platform.servers import NatsServer, S3Server
from messaging.ids import new_id
from messaging.leases import LeasedTable
from messaging.transaction import Transaction
from storage import repository
from storage.decoder_process import NICENESS
from storage.decoders import Decoders
from storage.deletions import Deletions
from storage.due_work import OUTPUT_SUBJECTS
from storage.handlers import VerificationHandler
from storage.intake import Intake
from storage.object_store import ObjectStore
from storage.previews import MAX_FAILURES, Previews, measure
from storage.repository import ClaimedPreviews
from storage.signing import signer_of
from storage.tables import PREVIEWS, assets, previews
from storage.worker import Verifications
from tests.messaging.leases.case import LeaseCase
from tests.messaging.leases.conformance import LeaseRules
from tests.storage.integration.conftest import CREDENTIALS, StorageHarness, output_ready, settings_for
from tests.storage.integration.test_deletions import ask, carry_out, keys
from tests.storage.integration.test_service import process
from tests.support.media import clip, picture
from tests.support.waiting import eventually

GOOD: Final = Mark("Trusted", "c2pa.created", DIGITAL_SOURCE_TYPE)
BODY: Final = clip()


class PreviewsHarness:
    """Storage that makes previews, within the test."""

    def __init__(self, storage: StorageHarness, made: Previews) -> None:
        self.storage = storage
        self.made = made
        self.worker = made.worker(3600.0, asyncio.Event())

    async def store(self, body: bytes = BODY, **changes: Any) -> AssetStored:
        """An output in the library, whose previews are due."""
        handler = VerificationHandler(
            self.storage.transactions, self.storage.verifier, wake_previews=asyncio.Event().set
        )
        outputs = Verifications(self.storage.transactions, handler, OUTPUT_SUBJECTS)
        worker = outputs.worker("outputs", 1, 3600.0, Intake(asyncio.Event()))
        generation_id, reported = self.storage.upload_output(body)
        await self.storage.receive(output_ready(generation_id, reported, **changes))
        await worker.fill()
        await worker.idle()
        return [message for message in await self.storage.published() if isinstance(message, AssetStored)][-1]

    async def make(self) -> None:
        """Make what is due."""
        while await self.worker.fill():
            await self.worker.idle()

    async def make_again(self) -> None:
        """Make what is due, and what was postponed."""
        await self.storage.execute("UPDATE storage.previews SET due_at = now() WHERE due_at IS NOT NULL")
        await self.make()

    async def announced(self) -> list[PreviewsStored]:
        return [message for message in await self.storage.published() if isinstance(message, PreviewsStored)]

    async def row(self) -> sa.Row[Any]:
        """The only one."""
        async with self.storage.transactions.begin() as tx:
            return (await tx.connection.execute(sa.select(previews))).one()


@pytest.fixture
async def harness(storage: StorageHarness, tmp_path: Path) -> AsyncIterator[PreviewsHarness]:
    made = Previews(storage.transactions, storage.store, storage.decoders, tmp_path, "library", lambda: None)
    harness = PreviewsHarness(storage, made)
    yield harness
    await harness.worker.drain()


def ended(outcome: str) -> float:
    return REGISTRY.get_sample_value("storage_previews_total", {"outcome": outcome}) or 0.0


async def test_previews_of_an_output_are_stored_marked_and_announced(harness: PreviewsHarness) -> None:
    before = ended("stored")
    asset = await harness.store()
    await harness.make()
    (announced,) = await harness.announced()
    assert (announced.generation_id, announced.user_id) == (asset.generation_id, asset.user_id)
    assert announced.asset_id == asset.asset_id
    assert announced.animated_preview is not None
    pictures = (*announced.thumbnails, announced.animated_preview)
    assert [(one.width_pixels, one.height_pixels) for one in pictures] == [(256, 192), (320, 240), (320, 240)]
    for one in pictures:
        body = harness.storage.library(one.object_key)
        assert (one.size_bytes, one.sha256) == (len(body), hashlib.sha256(body).hexdigest())
        assert mark_of(body, one.content_type, CREDENTIALS.root) == GOOD
        assert Image.open(io.BytesIO(body)).size == (one.width_pixels, one.height_pixels)
    assert len(keys(harness.storage, asset.generation_id)) == 5
    assert (await harness.row()).outcome == "stored"
    assert ended("stored") - before == 1
    await harness.make_again()
    assert len(await harness.announced()) == 1


async def test_a_picture_has_thumbnails_and_does_not_move(harness: PreviewsHarness) -> None:
    await harness.store(picture(), kind="image", expected_duration_ms=None)
    await harness.make()
    (announced,) = await harness.announced()
    assert (len(announced.thumbnails), announced.animated_preview) == (2, None)


async def test_what_a_killed_service_wrote_stays_and_is_announced_by_the_next(
    harness: PreviewsHarness, nats_server: NatsServer
) -> None:
    storage = harness.storage
    asset = await harness.store()
    async with process(storage, nats_server, "storage.after_previews", STORAGE_PREVIEWS="on") as doomed:
        assert await asyncio.wait_for(doomed.wait(), 60) == -signal.SIGKILL
    written = {key: storage.library(key) for key in keys(storage, asset.generation_id)}
    # Instead of waiting until the lease of the killed process expires.
    await storage.execute("UPDATE storage.previews SET leased_until = NULL WHERE due_at IS NOT NULL")
    async with process(storage, nats_server, STORAGE_PREVIEWS="on"):
        (announced,) = await eventually(harness.announced, timeout=60, what="the announcement")
    assert announced.animated_preview is not None
    for one in (*announced.thumbnails, announced.animated_preview):
        assert one.sha256 == hashlib.sha256(written.pop(one.object_key)).hexdigest()
    assert set(written) == {asset.object_key, asset.poster_object_key}


async def test_previews_of_a_deleted_generation_are_not_made(harness: PreviewsHarness) -> None:
    asset = await harness.store()
    deletions = Deletions(harness.storage.transactions, harness.storage.store).worker(3600.0, asyncio.Event())
    await ask(harness.storage, asset)
    await carry_out(deletions)
    await harness.make()
    assert (await harness.row()).outcome == "deleted"
    assert await harness.announced() == []


async def test_what_a_killed_try_wrote_of_a_deleted_generation_goes(harness: PreviewsHarness) -> None:
    asset = await harness.store()
    deletions = Deletions(harness.storage.transactions, harness.storage.store).worker(3600.0, asyncio.Event())
    # A worker has claimed it, and is killed after it wrote behind the deletion.
    await harness.storage.execute("UPDATE storage.previews SET fence = 1")
    await ask(harness.storage, asset)
    await carry_out(deletions)
    key = thumbnail_key(asset.user_id, asset.generation_id, asset.sha256, 256)
    harness.storage.s3.client("storage").put_object(Bucket="library", Key=key, Body=b"a thumbnail")
    await harness.make()
    await carry_out(deletions)
    assert keys(harness.storage, asset.generation_id) == []


async def test_a_delete_while_previews_are_made_removes_them(
    harness: PreviewsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = await harness.store()
    deletions = Deletions(harness.storage.transactions, harness.storage.store).worker(3600.0, asyncio.Event())
    render = Decoders.render_previews

    async def render_after_the_delete(decoders: Decoders, *arguments: Any) -> Any:
        rendered = await render(decoders, *arguments)
        await ask(harness.storage, asset)
        await carry_out(deletions)
        return rendered

    monkeypatch.setattr(Decoders, "render_previews", render_after_the_delete)
    await harness.make()
    assert len(keys(harness.storage, asset.generation_id)) == 3
    await carry_out(deletions)
    assert keys(harness.storage, asset.generation_id) == []
    assert await harness.announced() == []
    deleted = [message for message in await harness.storage.published() if isinstance(message, FilesDeleted)]
    assert len(deleted) == 2


async def test_previews_that_cannot_be_made_are_given_up_with_a_reason(harness: PreviewsHarness) -> None:
    before = ended("given_up")
    asset = await harness.store()
    harness.storage.s3.client("admin").put_object(Bucket="library", Key=asset.object_key, Body=b"no clip")
    await harness.make()
    for _ in range(MAX_FAILURES):
        assert await harness.announced() == []
        await harness.make_again()
    row = await harness.row()
    assert (row.outcome, row.due_at, row.tries) == ("given_up", None, MAX_FAILURES)
    assert row.reason.startswith("Rejected: checksum_mismatch")
    assert ended("given_up") - before == 1
    assert len(await harness.storage.assets()) == 1


async def test_a_store_that_is_away_delays_previews_and_gives_none_up(
    harness: PreviewsHarness, s3_server: S3Server, tmp_path: Path
) -> None:
    await harness.store()
    away = ObjectStore(settings_for(s3_server, "http://127.0.0.1:9"))
    await away.open()
    made = Previews(harness.storage.transactions, away, harness.storage.decoders, tmp_path, "library", lambda: None)
    cut_off = PreviewsHarness(harness.storage, made)
    await cut_off.make()
    await cut_off.make_again()
    await away.close()
    row = await harness.row()
    assert (row.tries, row.failures, row.outcome) == (2, 0, None)
    await measure(harness.storage.transactions)
    assert (REGISTRY.get_sample_value("storage_oldest_preview_seconds") or 0.0) > 0
    await harness.make_again()
    assert len(await harness.announced()) == 1


async def test_where_previews_are_off_none_are_requested(storage: StorageHarness) -> None:
    generation_id, reported = storage.upload_output(BODY)
    await storage.verify(output_ready(generation_id, reported))
    async with storage.transactions.begin() as tx:
        assert (await tx.connection.execute(sa.select(previews))).all() == []


async def test_a_decoder_of_previews_has_a_low_priority(s3_server: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.write_bytes(picture())
    decoders = Decoders(1, signer=signer_of(settings_for(s3_server)), background=True)
    try:
        assert await decoders.render_previews(path, "image", 1_000_000)
        (decoder,) = decoders._all
        assert decoder._process is not None
        assert psutil.Process(decoder._process.pid).nice() == min(psutil.Process().nice() + NICENESS, 19)
    finally:
        await decoders.stop()


def an_asset() -> AssetStored:
    """An output that is not in the library."""
    return AssetStored(
        asset_id=new_id(),
        generation_id=new_id(),
        user_id=uuid4(),
        attempt_id=uuid4(),
        attempt_number=1,
        object_key=str(uuid4()),
        poster_object_key=str(uuid4()),
        size_bytes=1000,
        sha256="0" * 64,
        media=MediaProperties(content_type="image/png", width_pixels=64, height_pixels=64, codec="png"),
        stored_at=datetime.now(UTC),
    )


class PreviewCase(LeaseCase):
    """Previews, claimed by storage's own query."""

    service: ClassVar[Service] = "storage"
    table: ClassVar[LeasedTable] = PREVIEWS
    completed: ClassVar[Mapping[str, Any]] = {"ended_at": sa.func.now(), "outcome": "given_up"}

    async def add(self, tx: Transaction, count: int) -> None:
        for _ in range(count):
            asset = an_asset()
            values = msgspec.structs.asdict(asset) | {"role": "output", "media": msgspec.to_builtins(asset.media)}
            await tx.connection.execute(sa.insert(assets).values(values))
            wanted = {name: values[name] for name in ("asset_id", "generation_id", "user_id")}
            await tx.connection.execute(sa.insert(previews).values(wanted))

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[ClaimedPreviews]:
        return await repository.claim_previews(connection, room, lease)


class TestPreviewLeases(LeaseRules):
    case = PreviewCase
