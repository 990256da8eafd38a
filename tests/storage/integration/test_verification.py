"""A file that a worker uploaded is stored only after it was fetched, measured and decoded."""

import asyncio
import hashlib
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import botocore.exceptions
import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from contracts.object_keys import library_folder
from contracts.storage import AssetRejected, AssetStored, InputsRejected, InputsVerified, OutputMissing, VerifyInputs
from contracts.values import ReportedOutput
from messaging.ids import new_id
from messaging.leases import LEASE
from storage import repository
from storage.due_work import OUTPUT_SUBJECTS
from storage.errors import DecoderFailed, StoreUnavailable
from storage.handlers import MAX_DECODER_FAILURES, VerificationHandler
from storage.output_records import NewPreviews, record_output
from storage.tables import VERIFICATIONS
from storage.worker import measure
from tests.storage.integration.conftest import StorageHarness, output_lookup, output_ready, verify_inputs
from tests.storage.unit.test_inspection import picture_as
from tests.support import eventually
from tests.support.media import clip, coded_clip, frames_of, picture


async def test_a_good_clip_is_stored_with_its_facts_and_a_poster(storage: StorageHarness) -> None:
    body = clip()
    generation_id, reported = storage.upload_output(body)
    request = output_ready(generation_id, reported)
    await storage.verify(request)
    stored = await storage.only(AssetStored)
    media = stored.media
    assert (media.content_type, media.codec) == ("video/mp4", "h264")
    assert (media.width_pixels, media.height_pixels, media.frames, media.duration_ms) == (320, 240, 16, 2000)
    assert stored.object_key == f"{request.user_id}/{generation_id}/output.mp4"
    delivered = storage.library(stored.object_key)
    assert (stored.size_bytes, stored.sha256) == (len(delivered), hashlib.sha256(delivered).hexdigest())
    assert frames_of(delivered) == frames_of(body)
    assert storage.library(stored.poster_object_key).startswith(b"\xff\xd8\xff")


async def test_a_good_picture_is_stored(storage: StorageHarness) -> None:
    generation_id, reported = storage.upload_output(picture())
    await storage.verify(output_ready(generation_id, reported, kind="image", expected_duration_ms=None))
    stored = await storage.only(AssetStored)
    assert (stored.media.content_type, stored.media.duration_ms) == ("image/png", None)
    assert stored.object_key.endswith("/output.png")


async def test_a_small_picture_is_its_own_poster_and_is_written_once(storage: StorageHarness) -> None:
    generation_id, reported = storage.upload_output(picture())
    request = output_ready(generation_id, reported, kind="image", expected_duration_ms=None)
    await storage.verify(request)
    stored = await storage.only(AssetStored)
    assert stored.poster_object_key == stored.object_key
    folder = library_folder(request.user_id, generation_id)
    listed = storage.s3.client("storage").list_objects_v2(Bucket="library", Prefix=folder)
    assert [one["Key"] for one in listed["Contents"]] == [stored.object_key]


FASTSTART = clip()
AT_END = clip(index_in_front=False)

BAD: dict[str, tuple[bytes, dict[str, Any], dict[str, Any], str]] = {
    "truncated at the end": (FASTSTART[: len(FASTSTART) * 2 // 3], {}, {}, "undecodable"),
    "without its index": (AT_END[: len(AT_END) * 2 // 3], {}, {}, "undecodable"),
    "a web page": (b"<!doctype html><title>504</title>" * 50, {}, {}, "undecodable"),
    "a playlist that names local files": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", {}, {}, "undecodable"),
    "empty": (b"", {}, {}, "undecodable"),
    "larger than reported": (FASTSTART, {"size_bytes": len(FASTSTART) - 1}, {}, "size_mismatch"),
    "larger than allowed": (FASTSTART, {}, {"max_size_bytes": len(FASTSTART) - 1}, "size_mismatch"),
    "with another checksum": (FASTSTART, {"sha256": "0" * 64}, {}, "checksum_mismatch"),
    "a picture instead of a clip": (picture(), {}, {}, "wrong_kind"),
    "a clip instead of a picture": (FASTSTART, {}, {"kind": "image", "expected_duration_ms": None}, "wrong_kind"),
    "of another size": (FASTSTART, {}, {"expected_width_pixels": 640}, "wrong_dimensions"),
    "in another container": (
        coded_clip("matroska", "libx264", "yuv420p"),
        {},
        {"expected_extension": "mp4"},
        "wrong_format",
    ),
    "too short": (FASTSTART, {}, {"expected_duration_ms": 5000}, "wrong_dimensions"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_file_other_than_ordered_is_rejected_and_not_stored(storage: StorageHarness, case: str) -> None:
    body, facts, ordered, code = BAD[case]
    generation_id, reported = storage.upload_output(body, **facts)
    await storage.verify(output_ready(generation_id, reported, **ordered))
    refusal = await storage.only(AssetRejected)
    assert refusal.code == code
    assert await storage.assets() == []


async def test_a_truncated_picture_is_rejected(storage: StorageHarness) -> None:
    body = picture()
    generation_id, reported = storage.upload_output(body[: len(body) // 2])
    await storage.verify(output_ready(generation_id, reported, kind="image", expected_duration_ms=None))
    refusal = await storage.only(AssetRejected)
    assert refusal.code == "undecodable"


async def test_a_missing_file_is_rejected_as_not_found(storage: StorageHarness) -> None:
    reported = ReportedOutput(attempt_id=uuid4(), attempt_number=1, object_key="nowhere/1/output.mp4")
    await storage.verify(output_ready(uuid4(), reported))
    refusal = await storage.only(AssetRejected)
    assert refusal.code == "not_found"


async def test_the_same_request_twice_has_one_result(storage: StorageHarness) -> None:
    generation_id, reported = storage.upload_output(clip())
    request, message_id = output_ready(generation_id, reported), new_id()
    await storage.verify(request, message_id)
    await storage.verify(request, message_id)
    assert len(await storage.published()) == 1


async def test_two_attempts_of_one_generation_share_one_asset(storage: StorageHarness) -> None:
    generation_id, first = storage.upload_output(clip())
    _, second = storage.upload_output(clip(frames=17), generation_id=generation_id, attempt_number=2)
    user_id = uuid4()
    await storage.receive(output_ready(generation_id, first, user_id=user_id))
    await storage.receive(output_ready(generation_id, second, user_id=user_id))
    await storage.process_all()
    one, other = await storage.published()
    assert isinstance(one, AssetStored)
    assert isinstance(other, AssetStored)
    assert one == other
    (asset,) = await storage.assets()
    assert (one.asset_id, one.stored_at) == (asset.asset_id, asset.stored_at)
    assert hashlib.sha256(storage.library(asset.object_key)).hexdigest() == asset.sha256
    async with storage.transactions.begin() as tx:
        assert (await repository.count_open(tx.connection)).count == 0, "nothing is left to do"
        announced = await tx.connection.execute(sa.text("SELECT message_id FROM storage.outbox_messages"))
        assert sorted(announced.scalars()) == sorted(one.message_id for one in storage.transactions.fresh)


async def test_eight_concurrent_writers_of_one_generation_leave_one_object(storage: StorageHarness) -> None:
    generation_id = uuid4()
    outputs = [storage.upload_output(clip(frames=16 + number % 2), generation_id, number)[1] for number in range(1, 9)]
    user_id = uuid4()
    stored = await asyncio.gather(
        *(storage.verifier.store_output(output_ready(generation_id, one, user_id=user_id), one) for one in outputs)
    )
    assert len({one.sha256 for one in stored}) == 1
    assert hashlib.sha256(storage.library(stored[0].object_key)).hexdigest() == stored[0].sha256


async def test_a_file_that_was_written_but_not_recorded_is_recorded_later(storage: StorageHarness) -> None:
    generation_id, reported = storage.upload_output(clip())
    request = output_ready(generation_id, reported)
    # A worker wrote the object to the library and died before it recorded the asset.
    await storage.verifier.store_output(request, reported)
    assert await storage.assets() == []
    await storage.verify(request)
    assert await storage.only(AssetStored)
    assert len(await storage.assets()) == 1


async def test_a_worker_cannot_record_a_result_after_its_lease(storage: StorageHarness) -> None:
    generation_id, reported = storage.upload_output(clip())
    request = output_ready(generation_id, reported)
    await storage.receive(request)
    async with storage.transactions.begin() as tx:
        (stale,) = await repository.claim_due(tx.connection, OUTPUT_SUBJECTS, 1, -LEASE)
    await storage.process_all()
    async with storage.transactions.begin() as tx:
        assert await repository.complete(tx.connection, stale.claim, "storage.event.asset-rejected.v1") is False
    assert len(await storage.published()) == 1


async def test_a_worker_cannot_record_an_output_after_its_lease(storage: StorageHarness) -> None:
    generation_id, reported = storage.upload_output(clip())
    request = output_ready(generation_id, reported)
    stored = await storage.verifier.store_output(request, reported)
    await storage.receive(request)
    async with storage.transactions.begin() as tx:
        (stale,) = await repository.claim_due(tx.connection, OUTPUT_SUBJECTS, 1, -LEASE)
    async with storage.transactions.begin() as tx:
        (current,) = await repository.claim_due(tx.connection, OUTPUT_SUBJECTS, 1, LEASE)
    async with storage.transactions.begin() as tx:
        assert await record_output(tx.connection, stale.claim, stored, NewPreviews(None)) is None
    assert await storage.assets() == []
    async with storage.transactions.begin() as tx:
        recorded = await record_output(tx.connection, current.claim, stored, NewPreviews(None))
        assert recorded is not None
        assert recorded.asset.asset_id == stored.asset_id
        assert await record_output(tx.connection, current.claim, stored, NewPreviews(None)) is None


async def test_a_first_output_is_neither_recorded_nor_announced_after_the_lease(storage: StorageHarness) -> None:
    generation_id, reported = storage.upload_output(clip())
    await storage.receive(output_ready(generation_id, reported))
    async with storage.transactions.begin() as tx:
        (stale,) = await repository.claim_due(tx.connection, OUTPUT_SUBJECTS, 1, -LEASE)
    async with storage.transactions.begin() as tx:
        (current,) = await repository.claim_due(tx.connection, OUTPUT_SUBJECTS, 1, LEASE)
    handler = VerificationHandler(storage.transactions, storage.verifier)
    await handler.handle(stale, None)
    assert (await storage.assets(), await storage.published()) == ([], [])
    await handler.handle(current, None)
    stored = await storage.only(AssetStored)
    assert [asset.asset_id for asset in await storage.assets()] == [stored.asset_id]


async def test_a_lookup_finds_the_output_under_the_key_of_any_attempt(storage: StorageHarness) -> None:
    generation_id, reported = storage.upload_output(clip())
    present = ReportedOutput(attempt_id=reported.attempt_id, attempt_number=1, object_key=reported.object_key)
    absent = ReportedOutput(attempt_id=uuid4(), attempt_number=2, object_key=f"{generation_id}/2/output.mp4")
    await storage.verify(output_lookup(generation_id, [absent, present]))
    stored = await storage.only(AssetStored)
    assert stored.attempt_number == 1


async def test_a_lookup_without_a_good_file_reports_a_missing_output(storage: StorageHarness) -> None:
    generation_id, broken = storage.upload_output(b"half a file")
    await storage.verify(output_lookup(generation_id, [broken]))
    missing = await storage.only(OutputMissing)
    assert missing.sought_version == 4


async def test_an_unavailable_object_store_postpones_and_rejects_nothing(
    storage: StorageHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id, reported = storage.upload_output(clip())
    fetch, failures = storage.store.fetch, 2

    async def fail_twice(*arguments: object) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreUnavailable("503")
        return await fetch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(storage.store, "fetch", fail_twice)
    await storage.verify(output_ready(generation_id, reported))
    for _ in range(2):
        assert await storage.published() == []
        await storage.make_due()
        await storage.process_all()
    assert await storage.only(AssetStored)


async def test_files_go_on_seconds_after_a_long_outage_of_the_store(
    storage: StorageHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*arguments: object) -> object:
        raise StoreUnavailable("ClientConnectorError")

    monkeypatch.setattr(storage.store, "fetch", away)
    await storage.receive(output_ready(*storage.upload_output(clip())))
    await storage.execute("UPDATE storage.verifications SET tries = 100")
    await storage.process_all()
    async with storage.transactions.begin() as tx:
        pause = await tx.connection.scalar(sa.text("SELECT next_try_at - now() FROM storage.verifications"))
    assert timedelta(seconds=3) < pause < timedelta(seconds=6)


async def test_an_unavailable_database_postpones_and_counts_no_failure(
    storage: StorageHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id, reported = storage.upload_output(clip())
    store_output, superuser = storage.verifier.store_output, storage.database.superuser_engine()
    failures = REGISTRY.get_sample_value("storage_failures_total")

    async def at_the_database(statement: str) -> None:
        async with superuser.begin() as connection:
            await connection.execute(sa.text(statement))

    async def store_and_lose_the_database(*arguments: Any) -> Any:
        stored = await store_output(*arguments)
        await at_the_database(f"ALTER DATABASE {storage.database.name} CONNECTION LIMIT 0")
        await at_the_database(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = 'storage' AND datname = current_database()"
        )
        return stored

    await storage.receive(output_ready(generation_id, reported))
    with monkeypatch.context() as patch:
        patch.setattr(storage.verifier, "store_output", store_and_lose_the_database)
        await storage.worker.fill()
        await storage.worker.idle()
    await at_the_database(f"ALTER DATABASE {storage.database.name} CONNECTION LIMIT -1")
    assert REGISTRY.get_sample_value("storage_failures_total") == failures
    await storage.make_due()
    await storage.process_all()
    assert await storage.only(AssetStored)


async def test_an_upload_can_be_used_by_its_owner_only(storage: StorageHarness) -> None:
    owner = uuid4()
    upload_id = storage.upload_input(owner, picture())
    await storage.verify(verify_inputs(owner, upload_id))
    await storage.verify(verify_inputs(uuid4(), upload_id))
    verified, rejected = await storage.published()
    assert isinstance(verified, InputsVerified)
    assert verified.object_keys == {"image": f"{owner}/{upload_id}"}
    assert isinstance(rejected, InputsRejected)
    assert (rejected.code, rejected.parameter) == ("not_found", "image")


async def test_the_record_of_an_upload_stays_that_of_its_owner(storage: StorageHarness) -> None:
    owner, other, body = uuid4(), uuid4(), picture()
    upload_id = storage.upload_input(owner, body)
    storage.s3.client("gateway").put_object(Bucket="uploads", Key=f"{other}/{upload_id}", Body=picture(width=64))
    for user_id in (owner, other):
        await storage.verify(verify_inputs(user_id, upload_id))
    async with storage.transactions.begin() as tx:
        (row,) = await tx.connection.execute(sa.text("SELECT user_id, sha256 FROM storage.uploads"))
    assert (row.user_id, row.sha256) == (owner, hashlib.sha256(body).hexdigest())


async def test_an_upload_that_is_no_picture_is_rejected(storage: StorageHarness) -> None:
    owner = uuid4()
    upload_id = storage.upload_input(owner, clip())
    await storage.verify(verify_inputs(owner, upload_id))
    refusal = await storage.only(InputsRejected)
    assert refusal.code == "wrong_kind"


async def test_an_upload_that_gpu_workers_cannot_read_is_rejected(storage: StorageHarness) -> None:
    """Otherwise it would cost a run. FFmpeg reads a lossless JPEG; Pillow, which workers use, does not."""
    owner = uuid4()
    upload_id = storage.upload_input(owner, picture_as("ljpeg", "bgr24"))
    await storage.verify(verify_inputs(owner, upload_id))
    refusal = await storage.only(InputsRejected)
    assert refusal.code == "undecodable"


async def test_the_token_of_storage_cannot_write_incoming_or_uploads(storage: StorageHarness) -> None:
    client = storage.s3.client("storage")
    for bucket in ("incoming", "uploads"):
        with pytest.raises(botocore.exceptions.ClientError) as refusal:
            client.put_object(Bucket=bucket, Key="x", Body=b"x")
        assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


async def test_a_file_under_the_key_of_another_generation_is_rejected(storage: StorageHarness) -> None:
    _, reported = storage.upload_output(clip())
    await storage.verify(output_ready(uuid4(), reported))
    refusal = await storage.only(AssetRejected)
    assert refusal.code == "not_found"


async def test_a_file_on_which_decoders_fail_three_times_is_rejected(
    storage: StorageHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id, reported = storage.upload_output(clip())
    outcomes: list[Exception] = [StoreUnavailable("503")] * 5 + [DecoderFailed("EOFError")] * 3

    async def fail(*arguments: object) -> object:
        raise outcomes.pop(0)

    monkeypatch.setattr(storage.decoders, "mark", fail)
    await storage.receive(output_ready(generation_id, reported))
    # Failures of the object store do not count against the file.
    for left in range(7, -1, -1):
        assert await storage.published() == []
        await storage.make_due()
        await storage.process_all()
        assert len(outcomes) == left
    refusal = await storage.only(AssetRejected)
    assert refusal.code == "undecodable"


async def test_decoders_that_do_not_start_count_against_no_file(
    storage: StorageHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id, reported = storage.upload_output(clip())
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    await storage.receive(output_ready(generation_id, reported))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(broken))
        for _ in range(MAX_DECODER_FAILURES):
            await storage.make_due()
            await storage.process_all()
    assert await storage.published() == []
    await storage.make_due()
    await storage.process_all()
    assert await storage.only(AssetStored)


async def test_a_decoder_failure_counts_only_against_its_file(
    storage: StorageHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id, good = storage.upload_output(clip())
    _, hostile = storage.upload_output(b"hostile", generation_id=generation_id, attempt_number=2)
    mark, good_tries = storage.decoders.mark, 0

    async def die(path: Path, *arguments: Any) -> Any:
        nonlocal good_tries
        if await asyncio.to_thread(path.read_bytes) == b"hostile":
            raise DecoderFailed("EOFError")
        good_tries += 1
        if good_tries == 1:
            raise DecoderFailed("TimeoutError")
        return await mark(path, *arguments)

    monkeypatch.setattr(storage.decoders, "mark", die)
    await storage.receive(output_lookup(generation_id, [hostile, good]))
    for _ in range(MAX_DECODER_FAILURES + 1):
        await storage.make_due()
        await storage.process_all()
    stored = await storage.only(AssetStored)
    assert (stored.attempt_number, good_tries) == (1, 2)


async def test_the_record_names_the_attempt_whose_file_was_written_first(storage: StorageHarness) -> None:
    generation_id, first = storage.upload_output(clip())
    _, second = storage.upload_output(clip(), generation_id=generation_id, attempt_number=2)
    request = output_ready(generation_id, first)
    # It was written, and its worker was killed before it recorded that.
    await storage.verifier.store_output(request, first)
    await storage.verify(output_ready(generation_id, second, user_id=request.user_id))
    stored = await storage.only(AssetStored)
    assert (stored.attempt_number, stored.attempt_id) == (1, first.attempt_id)
    assert stored.sha256 == hashlib.sha256(storage.library(stored.object_key)).hexdigest()


async def test_a_worker_extends_its_lease_and_releases_it_when_it_stops(
    storage: StorageHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id, reported = storage.upload_output(clip())
    started = asyncio.Event()

    async def never(*arguments: object) -> object:
        started.set()
        return await asyncio.Event().wait()

    monkeypatch.setattr(storage.store, "fetch", never)
    await storage.receive(output_ready(generation_id, reported))
    await storage.worker.fill()
    await started.wait()
    before = await leased_until(storage)
    await storage.worker.extend()
    assert await leased_until(storage) > before
    await storage.worker.drain()
    assert await leased_until(storage) is None


async def test_a_late_heartbeat_does_not_delay_a_postponed_verification(storage: StorageHarness) -> None:
    generation_id, reported = storage.upload_output(clip())
    await storage.receive(output_ready(generation_id, reported))
    async with storage.transactions.begin() as tx:
        (claimed,) = await repository.claim_due(tx.connection, OUTPUT_SUBJECTS, 1, LEASE)
        await repository.postpone(tx.connection, claimed.claim, timedelta(0), [])
        await VERIFICATIONS.extend(tx.connection, [claimed.claim], LEASE)
    await storage.process_all()
    assert await storage.only(AssetStored)


async def leased_until(storage: StorageHarness) -> Any:
    async with storage.transactions.begin() as tx:
        return await tx.connection.scalar(sa.text("SELECT leased_until FROM storage.verifications"))


async def test_gauges_show_the_open_verifications_and_the_oldest_age(storage: StorageHarness) -> None:
    generation_id, reported = storage.upload_output(clip())
    await measure(storage.transactions)
    assert REGISTRY.get_sample_value("storage_open_verifications") == 0
    await storage.receive(output_ready(generation_id, reported))
    await storage.receive(output_ready(generation_id, reported))
    await measure(storage.transactions)
    assert REGISTRY.get_sample_value("storage_open_verifications") == 2
    assert (REGISTRY.get_sample_value("storage_oldest_verification_seconds") or 0) > 0
    await storage.process_all()
    await measure(storage.transactions)
    assert REGISTRY.get_sample_value("storage_open_verifications") == 0


async def test_a_backlog_is_processed_without_waiting_for_the_next_poll(storage: StorageHarness) -> None:
    requests = 25
    for _ in range(requests):
        # There is no object under the key: such requests are done as fast as possible, several at the same moment.
        generation_id = uuid4()
        key = f"{generation_id}/1/output.mp4"
        absent = ReportedOutput(attempt_id=uuid4(), attempt_number=1, object_key=key)
        await storage.receive(output_ready(generation_id, absent))

    async def all_done() -> bool:
        return len(await storage.published()) == requests

    working = asyncio.create_task(storage.worker.run())
    await eventually(all_done, timeout=20)
    working.cancel()
    await asyncio.wait([working])


async def test_an_upload_is_a_clip_where_the_order_needs_one(storage: StorageHarness) -> None:
    owner = uuid4()
    for content, expected in ((clip(), InputsVerified), (picture(), InputsRejected)):
        upload_id = storage.upload_input(owner, content)
        order = VerifyInputs(generation_id=uuid4(), user_id=owner, uploads={"clip": upload_id}, clips=("clip",))
        await storage.verify(order)
        assert isinstance((await storage.published())[-1], expected)
    refusal = (await storage.published())[-1]
    assert isinstance(refusal, InputsRejected)
    assert (refusal.code, refusal.parameter) == ("wrong_kind", "clip")


@pytest.mark.parametrize(
    ("frames", "rate", "ordered_ms", "is_taken"),
    [
        (16, 8, 2000, True),
        (14, 8, 2000, True),
        (13, 8, 2000, False),
        (40, 8, 2000, True),
        (130, 60, 2000, True),
        (130, 120, 1000, False),
        (8, 8, None, True),
    ],
)
async def test_a_clip_is_as_long_as_ordered_and_has_no_more_frames_than_are_paid_for(
    storage: StorageHarness, frames: int, rate: int, ordered_ms: int | None, is_taken: bool
) -> None:
    owner = uuid4()
    upload_id = storage.upload_input(owner, clip(width=64, height=64, frames=frames, rate=rate))
    order = VerifyInputs(
        generation_id=uuid4(),
        user_id=owner,
        uploads={"clip": upload_id},
        clips=("clip",),
        clip_duration_ms=ordered_ms,
    )
    await storage.verify(order)
    answer = (await storage.published())[-1]
    assert isinstance(answer, InputsVerified if is_taken else InputsRejected)
    if isinstance(answer, InputsRejected):
        assert (answer.code, answer.parameter) == ("wrong_dimensions", "clip")
