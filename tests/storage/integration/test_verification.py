"""What a worker uploaded is believed only after it was fetched, measured and decoded."""

import asyncio
import hashlib
import sys
import zlib
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import botocore.exceptions
import msgspec
import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from contracts.storage import AssetRejected, AssetStored, InputsRejected, InputsVerified, OutputMissing, VerifyInputs
from contracts.values import OutputClaim
from messaging.ids import new_id
from storage import repository
from storage.errors import DecoderFailed, StoreUnavailable
from storage.worker import DECODER_FAILURES, LEASE, OUTPUT_QUESTIONS, measure
from tests.storage.integration.conftest import Desk, due_at_once, ready, sought
from tests.support import eventually
from tests.support.media import clip, picture


async def test_a_good_clip_is_stored_with_its_facts_and_a_poster(desk: Desk) -> None:
    body = clip()
    generation_id, claim = desk.upload(body)
    question = ready(generation_id, claim)
    await desk.ask(question)
    (stored,) = await desk.said()
    assert isinstance(stored, AssetStored)
    media = stored.media
    assert (media.content_type, media.codec) == ("video/mp4", "h264")
    assert (media.width_pixels, media.height_pixels, media.frames, media.duration_ms) == (320, 240, 16, 2000)
    assert stored.sha256 == hashlib.sha256(body).hexdigest()
    assert stored.object_key == f"{question.user_id}/{generation_id}/output.mp4"
    assert desk.library(stored.object_key) == body
    assert desk.library(stored.poster_object_key).startswith(b"\xff\xd8\xff")


async def test_a_good_picture_is_stored(desk: Desk) -> None:
    generation_id, claim = desk.upload(picture())
    await desk.ask(ready(generation_id, claim, kind="image", expected_duration_ms=None))
    (stored,) = await desk.said()
    assert isinstance(stored, AssetStored)
    assert (stored.media.content_type, stored.media.duration_ms) == ("image/png", None)
    assert stored.object_key.endswith("/output.png")


FASTSTART = clip()
AT_END = clip(index_in_front=False)

BAD: dict[str, tuple[bytes, dict[str, object], dict[str, object], str]] = {
    "truncated at the end": (FASTSTART[: len(FASTSTART) * 2 // 3], {}, {}, "undecodable"),
    "without its index": (AT_END[: len(AT_END) * 2 // 3], {}, {}, "undecodable"),
    "a web page": (b"<!doctype html><title>504</title>" * 50, {}, {}, "undecodable"),
    "a playlist that names local files": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", {}, {}, "undecodable"),
    "empty": (b"", {}, {}, "undecodable"),
    "larger than stated": (FASTSTART, {"size_bytes": len(FASTSTART) - 1}, {}, "size_mismatch"),
    "larger than allowed": (FASTSTART, {}, {"max_size_bytes": len(FASTSTART) - 1}, "size_mismatch"),
    "with another checksum": (FASTSTART, {"sha256": "0" * 64}, {}, "checksum_mismatch"),
    "a picture instead of a clip": (picture(), {}, {}, "wrong_kind"),
    "a clip instead of a picture": (FASTSTART, {}, {"kind": "image", "expected_duration_ms": None}, "wrong_kind"),
    "of another size": (FASTSTART, {}, {"expected_width_pixels": 640}, "wrong_dimensions"),
    "too short": (FASTSTART, {}, {"expected_duration_ms": 5000}, "wrong_dimensions"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_file_that_is_not_what_was_asked_for_is_rejected_and_not_stored(desk: Desk, case: str) -> None:
    body, stated, asked, code = BAD[case]
    generation_id, claim = desk.upload(body, **stated)
    await desk.ask(ready(generation_id, claim, **asked))
    (refusal,) = await desk.said()
    assert isinstance(refusal, AssetRejected)
    assert refusal.code == code
    assert await desk.assets() == []


async def test_a_truncated_picture_is_rejected(desk: Desk) -> None:
    body = picture()
    generation_id, claim = desk.upload(body[: len(body) // 2])
    await desk.ask(ready(generation_id, claim, kind="image", expected_duration_ms=None))
    (refusal,) = await desk.said()
    assert (type(refusal), refusal.code) == (AssetRejected, "undecodable")


async def test_a_file_that_is_not_there_is_rejected_as_not_found(desk: Desk) -> None:
    claim = OutputClaim(attempt_id=uuid4(), attempt_number=1, object_key="nowhere/1/output.mp4")
    await desk.ask(ready(uuid4(), claim))
    (refusal,) = await desk.said()
    assert refusal.code == "not_found"


async def test_the_same_question_twice_is_answered_once(desk: Desk) -> None:
    generation_id, claim = desk.upload(clip())
    question, message_id = ready(generation_id, claim), new_id()
    await desk.ask(question, message_id)
    await desk.ask(question, message_id)
    assert len(await desk.said()) == 1


async def test_two_attempts_of_one_generation_leave_one_asset_and_both_are_answered_with_it(desk: Desk) -> None:
    generation_id, first = desk.upload(clip())
    _, second = desk.upload(clip(frames=17), generation_id=generation_id, attempt_number=2)
    user_id = uuid4()
    await desk.receive(ready(generation_id, first, user_id=user_id))
    await desk.receive(ready(generation_id, second, user_id=user_id))
    await desk.finish()
    said = await desk.said()
    assert [type(answer) for answer in said] == [AssetStored, AssetStored]
    assert said[0].asset_id == said[1].asset_id
    (asset,) = await desk.assets()
    assert hashlib.sha256(desk.library(asset.object_key)).hexdigest() == asset.sha256


async def test_eight_concurrent_writers_of_one_generation_leave_one_verified_object(desk: Desk) -> None:
    generation_id = uuid4()
    claims = [
        desk.upload(clip(frames=16 + n % 2), generation_id=generation_id, attempt_number=n)[1] for n in range(1, 9)
    ]
    user_id = uuid4()
    stored = await asyncio.gather(
        *(desk.verifier.store_output(ready(generation_id, claim, user_id=user_id), claim) for claim in claims)
    )
    assert len({one.sha256 for one in stored}) == 1
    assert hashlib.sha256(desk.library(stored[0].object_key)).hexdigest() == stored[0].sha256


async def test_a_worker_that_died_between_writing_and_recording_is_made_good(desk: Desk) -> None:
    generation_id, claim = desk.upload(clip())
    question = ready(generation_id, claim)
    # What it did before it died: the object is in the library, and no row says so.
    await desk.verifier.store_output(question, claim)
    assert await desk.assets() == []
    await desk.ask(question)
    (stored,) = await desk.said()
    assert isinstance(stored, AssetStored)
    assert len(await desk.assets()) == 1


async def test_a_stopped_worker_cannot_answer_after_its_lease(desk: Desk) -> None:
    generation_id, claim = desk.upload(clip())
    question = ready(generation_id, claim)
    await desk.receive(question)
    async with desk.transactions.begin() as tx:
        (stale,) = await repository.claim_due(tx.connection, OUTPUT_QUESTIONS, 1, -LEASE)
    await desk.finish()
    async with desk.transactions.begin() as tx:
        assert await repository.answer(tx.connection, stale, "storage.event.asset-rejected.v1") is False
    assert len(await desk.said()) == 1


async def test_a_sought_output_is_found_under_any_attempts_key(desk: Desk) -> None:
    generation_id, claim = desk.upload(clip())
    bare = OutputClaim(attempt_id=claim.attempt_id, attempt_number=1, object_key=claim.object_key)
    nowhere = OutputClaim(attempt_id=uuid4(), attempt_number=2, object_key=f"{generation_id}/2/output.mp4")
    await desk.ask(sought(generation_id, [nowhere, bare]))
    (stored,) = await desk.said()
    assert (type(stored), stored.attempt_number) == (AssetStored, 1)


async def test_a_sought_output_that_is_nowhere_is_said_to_be_missing(desk: Desk) -> None:
    generation_id, broken = desk.upload(b"half a file")
    await desk.ask(sought(generation_id, [broken]))
    (missing,) = await desk.said()
    assert (type(missing), missing.sought_version) == (OutputMissing, 4)


async def test_an_object_store_that_is_down_is_waited_for_and_rejects_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id, claim = desk.upload(clip())
    fetch, failures = desk.store.fetch, 2

    async def fail_twice(*arguments: object) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreUnavailable("503")
        return await fetch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(desk.store, "fetch", fail_twice)
    await desk.ask(ready(generation_id, claim))
    for _ in range(2):
        assert await desk.said() == []
        await due_at_once(desk)
        await desk.finish()
    (stored,) = await desk.said()
    assert isinstance(stored, AssetStored)


async def test_a_database_that_goes_away_before_the_answer_is_recorded_is_no_bug_and_is_waited_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id, claim = desk.upload(clip())
    store_output, superuser = desk.verifier.store_output, desk.database.superuser_engine()
    failures = REGISTRY.get_sample_value("storage_failures_total")

    async def at_the_database(statement: str) -> None:
        async with superuser.begin() as connection:
            await connection.execute(sa.text(statement))

    async def store_and_lose_the_database(*arguments: Any) -> Any:
        stored = await store_output(*arguments)
        await at_the_database(f"ALTER DATABASE {desk.database.name} CONNECTION LIMIT 0")
        await at_the_database(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = 'storage' AND datname = current_database()"
        )
        return stored

    await desk.receive(ready(generation_id, claim))
    with monkeypatch.context() as patch:
        patch.setattr(desk.verifier, "store_output", store_and_lose_the_database)
        await desk.worker.work()
        await asyncio.wait(list(desk.worker._running))
    await at_the_database(f"ALTER DATABASE {desk.database.name} CONNECTION LIMIT -1")
    assert REGISTRY.get_sample_value("storage_failures_total") == failures
    await due_at_once(desk)
    await desk.finish()
    (stored,) = await desk.said()
    assert isinstance(stored, AssetStored)


async def test_users_uploads_are_verified_by_owner(desk: Desk) -> None:
    owner, upload_id = uuid4(), uuid4()
    desk.s3.client("gateway").put_object(Bucket="uploads", Key=f"{owner}/{upload_id}", Body=picture())
    await desk.ask(VerifyInputs(generation_id=uuid4(), user_id=owner, uploads={"image": upload_id}))
    await desk.ask(VerifyInputs(generation_id=uuid4(), user_id=uuid4(), uploads={"image": upload_id}))
    verified, stolen = await desk.said()
    assert isinstance(verified, InputsVerified)
    assert verified.object_keys == {"image": f"{owner}/{upload_id}"}
    assert (type(stolen), stolen.code, stolen.parameter) == (InputsRejected, "not_found", "image")


async def test_an_upload_that_is_no_picture_is_rejected(desk: Desk) -> None:
    owner, upload_id = uuid4(), uuid4()
    desk.s3.client("gateway").put_object(Bucket="uploads", Key=f"{owner}/{upload_id}", Body=clip())
    await desk.ask(VerifyInputs(generation_id=uuid4(), user_id=owner, uploads={"image": upload_id}))
    (refusal,) = await desk.said()
    assert refusal.code == "wrong_kind"


async def test_an_upload_that_only_workers_could_not_read_is_rejected_before_a_run_is_paid_for(desk: Desk) -> None:
    """FFmpeg skips a comment, whatever it unpacks to; Pillow, which workers use, refuses one of 80 MB."""
    owner, upload_id = uuid4(), uuid4()
    comment = b"zTXt" + b"k\0\0" + zlib.compress(b"a" * 80_000_000)
    chunk = (len(comment) - 4).to_bytes(4) + comment + zlib.crc32(comment).to_bytes(4)
    header_end = len(b"\x89PNG\r\n\x1a\n") + 4 + 4 + 13 + 4
    body = picture()[:header_end] + chunk + picture()[header_end:]
    desk.s3.client("gateway").put_object(Bucket="uploads", Key=f"{owner}/{upload_id}", Body=body)
    await desk.ask(VerifyInputs(generation_id=uuid4(), user_id=owner, uploads={"image": upload_id}))
    (refusal,) = await desk.said()
    assert (type(refusal), refusal.code) == (InputsRejected, "undecodable")


async def test_storages_token_cannot_write_where_workers_and_users_write(desk: Desk) -> None:
    client = desk.s3.client("storage")
    for bucket in ("incoming", "uploads"):
        with pytest.raises(botocore.exceptions.ClientError) as refusal:
            client.put_object(Bucket=bucket, Key="x", Body=b"x")
        assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


async def test_a_file_under_another_generations_key_is_not_taken(desk: Desk) -> None:
    claim = desk.upload(clip())[1]
    await desk.ask(ready(uuid4(), claim))
    (refusal,) = await desk.said()
    assert (type(refusal), refusal.code) == (AssetRejected, "not_found")


async def test_a_file_that_takes_the_decoder_down_three_times_is_rejected_and_only_that_counts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id, claim = desk.upload(clip())
    outcomes: list[Exception] = [StoreUnavailable("503")] * 5 + [DecoderFailed("EOFError")] * 3

    async def fail(*arguments: object) -> object:
        raise outcomes.pop(0)

    monkeypatch.setattr(desk.decoders, "inspect", fail)
    await desk.receive(ready(generation_id, claim))
    for left in range(7, -1, -1):
        assert await desk.said() == []
        await due_at_once(desk)
        await desk.finish()
        assert len(outcomes) == left
    (refusal,) = await desk.said()
    assert (type(refusal), refusal.code) == (AssetRejected, "undecodable")


async def test_decoders_that_do_not_start_are_held_against_no_file(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id, claim = desk.upload(clip())
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    await desk.receive(ready(generation_id, claim))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(broken))
        for _ in range(DECODER_FAILURES):
            await due_at_once(desk)
            await desk.finish()
    assert await desk.said() == []
    await due_at_once(desk)
    await desk.finish()
    (stored,) = await desk.said()
    assert isinstance(stored, AssetStored)


async def test_what_one_file_did_to_a_decoder_is_not_held_against_another(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id, good = desk.upload(clip())
    _, hostile = desk.upload(b"hostile", generation_id=generation_id, attempt_number=2)
    inspect, good_looks = desk.decoders.inspect, 0

    async def die(path: Path, *arguments: Any) -> Any:
        nonlocal good_looks
        if await asyncio.to_thread(path.read_bytes) == b"hostile":
            raise DecoderFailed("EOFError")
        good_looks += 1
        if good_looks == 1:
            raise DecoderFailed("TimeoutError")
        return await inspect(path, *arguments)

    monkeypatch.setattr(desk.decoders, "inspect", die)
    await desk.receive(sought(generation_id, [hostile, good]))
    for _ in range(DECODER_FAILURES + 1):
        await due_at_once(desk)
        await desk.finish()
    (stored,) = await desk.said()
    assert (type(stored), stored.attempt_number) == (AssetStored, 1)


async def test_a_worker_at_work_keeps_its_lease_and_a_stopped_one_gives_it_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id, claim = desk.upload(clip())
    started = asyncio.Event()

    async def never(*arguments: object) -> object:
        started.set()
        return await asyncio.Event().wait()

    monkeypatch.setattr(desk.store, "fetch", never)
    await desk.receive(ready(generation_id, claim))
    await desk.worker.work()
    await started.wait()
    before = await leased_until(desk)
    await desk.worker.keep_leases()
    assert await leased_until(desk) > before
    await desk.worker.stop()
    assert await leased_until(desk) is None


async def test_a_beat_that_comes_late_does_not_hold_up_a_question_that_was_put_off(desk: Desk) -> None:
    generation_id, claim = desk.upload(clip())
    await desk.receive(ready(generation_id, claim))
    async with desk.transactions.begin() as tx:
        (held,) = await repository.claim_due(tx.connection, OUTPUT_QUESTIONS, 1, LEASE)
        await repository.postpone(tx.connection, held, timedelta(0))
        await repository.extend_leases(tx.connection, [held], LEASE)
    await desk.finish()
    (stored,) = await desk.said()
    assert isinstance(stored, AssetStored)


async def leased_until(desk: Desk) -> Any:
    async with desk.transactions.begin() as tx:
        return await tx.connection.scalar(sa.text("SELECT leased_until FROM storage.verifications"))


async def test_open_questions_are_counted_with_the_age_of_the_oldest(desk: Desk) -> None:
    generation_id, claim = desk.upload(clip())
    await measure(desk.transactions)
    assert REGISTRY.get_sample_value("storage_open_questions") == 0
    await desk.receive(ready(generation_id, claim))
    await desk.receive(ready(generation_id, claim))
    await measure(desk.transactions)
    assert REGISTRY.get_sample_value("storage_open_questions") == 2
    assert (REGISTRY.get_sample_value("storage_oldest_question_seconds") or 0) > 0
    await desk.finish()
    await measure(desk.transactions)
    assert REGISTRY.get_sample_value("storage_open_questions") == 0


async def test_a_backlog_is_worked_off_without_waiting_for_the_clock(desk: Desk) -> None:
    questions = 25
    for _ in range(questions):
        # No object under the key: answered as fast as can be, several at the same moment.
        generation_id, claim = uuid4(), desk.upload(b"")[1]
        absent = msgspec.structs.replace(claim, object_key=f"{generation_id}/1/output.mp4")
        await desk.receive(ready(generation_id, absent))

    async def work_when_woken() -> None:
        desk.wake.set()
        while True:
            await desk.wake.wait()
            desk.wake.clear()
            await desk.worker.work()

    async def all_answered() -> bool:
        return len(await desk.said()) == questions

    working = asyncio.create_task(work_when_woken())
    await eventually(all_answered, timeout=20)
    working.cancel()
