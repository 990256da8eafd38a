"""The auditor reads the library: every file that is gone, changed or unknown is named."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from botocore.exceptions import ClientError
from prometheus_client import REGISTRY

from auditor.errors import LibraryUnavailable
from auditor.library import Library
from auditor.loops import library_scanner
from auditor.pace import Pace
from auditor.recorded_files import FILES_DIFFER_CODE, STRANGERS_CODE, FoundFile
from auditor.repository.library import find_assets_of
from local_platform.servers import S3Server
from tests.auditor.library_harness import LibraryHarness, address_of, library_harness
from tests.support.databases import Database


@pytest.fixture
async def database(make_database: Callable[..., Awaitable[Database]]) -> Database:
    return await make_database("storage", "auditor")


@pytest.fixture
async def library(database: Database, s3_server: S3Server) -> AsyncIterator[LibraryHarness]:
    harness = library_harness(database, s3_server, address_of(s3_server))
    harness.empty()
    yield harness
    await harness.library.close()


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("auditor_library_objects_total", {"outcome": outcome}) or 0.0


def gauge(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


async def test_a_library_that_is_as_recorded_has_no_findings(library: LibraryHarness) -> None:
    before = counted("as_recorded")
    for number in range(3):
        await library.store(b"clip %d" % number)
    await library.read_all()
    await library.list_all()
    assert await library.findings() == {}
    assert counted("as_recorded") - before == 9
    assert [row.position for row in await library.rows("SELECT position FROM auditor.library_scans")] == [None, None]


async def test_a_file_that_is_overwritten_is_named_by_its_checksum(library: LibraryHarness) -> None:
    asset = await library.store(b"the clip of the user")
    library.put(asset.output, b"the clip of a thief!")
    await library.read_all()
    code, found = (await library.findings())[asset.output]
    assert code == FILES_DIFFER_CODE
    assert found.startswith("sha256 ")


async def test_a_file_of_another_size_is_named_by_the_listing(library: LibraryHarness) -> None:
    asset, other = await library.store(), await library.store()
    library.put(asset.output, b"a clip and a half")
    await library.list_all()
    assert await library.findings() == {asset.output: (FILES_DIFFER_CODE, "17 bytes")}
    assert other.output not in await library.findings()


async def test_a_file_that_was_written_again_is_read_by_the_listing(library: LibraryHarness) -> None:
    asset = await library.store(b"the clip of the user")
    library.put(asset.output, b"the clip of a thief!")
    await library.execute("UPDATE storage.assets SET stored_at = now() - interval '2 hours'")
    await library.list_all()
    assert set(await library.findings()) == {asset.output}


async def test_a_file_that_is_gone_is_named_by_reading_and_by_listing(library: LibraryHarness) -> None:
    read, listed, kept = [await library.store() for _ in range(3)]
    library.delete(read.output)
    await library.read_all()
    assert set(await library.findings()) == {read.output}
    library.delete(listed.output)
    library.delete(listed.poster)
    await library.list_all()
    assert set(await library.findings()) == {read.output, listed.output, listed.poster}
    assert kept.output not in await library.findings()


async def test_a_file_that_its_user_deleted_must_be_gone(library: LibraryHarness) -> None:
    gone, kept = await library.store(), await library.store()
    leftover = f"{kept.output.rpartition('/')[0]}/poster-of-the-attempt-that-lost.jpg"
    library.put(leftover, b"a poster")
    for asset in (gone, kept):
        await library.record_deletion(asset)
    for key in (gone.output, gone.poster, gone.thumbnail):
        library.delete(key)
    await library.read_all()
    kept_files = {kept.output, kept.poster, kept.thumbnail}
    assert set(await library.findings()) == kept_files
    await library.list_all()
    assert set(await library.findings()) == {*kept_files, leftover}
    for key in (*kept_files, leftover):
        library.delete(key)
    await library.scanner.check_again()
    assert await library.findings() == {}


async def test_a_file_that_is_deleted_while_it_is_read_is_no_loss(
    library: LibraryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = await library.store()
    read = library.library.read

    async def read_after_the_delete(object_key: str, expected_bytes: int | None) -> FoundFile | None:
        if not await library.rows("SELECT generation_id FROM storage.deletions"):
            await library.record_deletion(asset)
            for key in (asset.output, asset.poster, asset.thumbnail):
                library.delete(key)
        return await read(object_key, expected_bytes)

    monkeypatch.setattr(library.library, "read", read_after_the_delete)
    await library.read_all()
    assert await library.findings() == {}
    (scan,) = await library.rows("SELECT ended_at FROM auditor.library_scans WHERE kind = 'assets'")
    assert scan.ended_at is not None


async def test_a_poster_that_somebody_else_wrote_is_named(library: LibraryHarness) -> None:
    asset = await library.store()
    library.s3.client("storage").put_object(Bucket="library", Key=asset.poster, Body=b"an advertisement")
    await library.read_all()
    assert await library.findings() == {asset.poster: (FILES_DIFFER_CODE, "none")}


async def test_a_picture_that_is_its_own_poster_is_read_once(library: LibraryHarness) -> None:
    asset = await library.store(own_poster=True)
    async with library.database.engine("auditor", 1).connect() as connection:
        (recorded,) = await find_assets_of(connection, [asset.generation_id])
    assert [one.object_key for one in recorded.files] == [asset.output, asset.thumbnail]
    library.put(asset.output, b"an advertisement")
    await library.read_all()
    assert set(await library.findings()) == {asset.output}


async def test_previews_are_known_and_read_like_outputs(library: LibraryHarness) -> None:
    asset = await library.store()
    directory = asset.output.rpartition("/")[0]
    library.put(f"{directory}/thumbnail-of-previews-that-were-given-up-256.webp", b"a thumbnail")
    await library.list_all()
    await library.read_all()
    assert await library.findings() == {}
    library.put(asset.thumbnail, b"another thumb")
    await library.make_due("assets")
    await library.read_all()
    assert await library.findings() == {asset.thumbnail: (FILES_DIFFER_CODE, "13 bytes")}


async def test_an_object_that_no_order_knows_is_named_after_the_grace(
    library: LibraryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = await library.store()
    directory = asset.output.rpartition("/")[0]
    library.put(f"{directory}/poster-of-the-attempt-that-lost.jpg", b"a poster")
    strangers = {"one of a stranger+with a space.mp4", f"{directory}/output.webm", "a/b/c"}
    for key in strangers:
        library.put(key, b"whose?")
    monkeypatch.setattr(library.scanner, "_grace", library_scanner.AGAIN_AFTER["bucket"])
    await library.list_all()
    assert await library.findings() == {}

    monkeypatch.undo()
    await library.make_due("bucket")
    await library.list_all()
    found = await library.findings()
    assert set(found) == strangers
    assert {code for code, _ in found.values()} == {STRANGERS_CODE}


async def test_orders_that_are_gone_after_a_restore_leave_findings(library: LibraryHarness) -> None:
    asset = await library.store()
    await library.execute("DELETE FROM storage.assets")
    await library.list_all()
    assert set(await library.findings()) == {asset.output, asset.poster, asset.thumbnail}


async def test_a_finding_ends_when_the_file_is_put_right(library: LibraryHarness) -> None:
    asset = await library.store(b"the clip of the user")
    library.delete(asset.output)
    library.put("a-stranger", b"whose?")
    await library.read_all()
    await library.list_all()
    await library.scanner.check_again()
    assert set(await library.findings()) == {asset.output, "a-stranger"}
    library.put(asset.output, b"the clip of the user")
    library.delete("a-stranger")
    await library.scanner.check_again()
    assert await library.findings() == {}


async def test_reading_goes_on_where_it_stopped(library: LibraryHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_scanner, "STRETCH_SECONDS", 0.0)
    # A store may list fewer keys than it is asked for, and have more.
    monkeypatch.setattr("auditor.library.KEYS_PER_PAGE", 2)
    assets = [await library.store() for _ in range(3)]
    await library.scanner.make_scans(timedelta(0), timedelta(0))
    for kind in ("assets", "bucket"):
        before = counted("as_recorded")
        positions = []
        while True:
            # Each stretch is the work of another worker, which knows only what is in the database.
            worker = library.scanner.worker(kind)
            if not await worker.fill():
                break
            await worker.idle()
            scans = await library.rows("SELECT kind, position FROM auditor.library_scans")
            positions.append({row.kind: row.position for row in scans}[kind])
        assert len(set(positions)) == len(positions) >= 3
        assert positions[-1] is None
        assert counted("as_recorded") - before == (3 * len(assets) if kind == "assets" else 0)
    assert await library.findings() == {}


@pytest.mark.parametrize("wrong", [{"endpoint_url": "http://127.0.0.1:1"}, {"bucket": "no-such-bucket"}])
async def test_a_store_that_does_not_answer_is_no_loss(
    library: LibraryHarness, s3_server: S3Server, wrong: dict[str, str]
) -> None:
    asset = await library.store()
    lost = library_harness(library.database, s3_server, replace(address_of(s3_server), **wrong))
    with pytest.raises(LibraryUnavailable):
        await lost.library.read(asset.output, 6)
    with pytest.raises(LibraryUnavailable):
        await lost.library.list_after("")
    await lost.read_all()
    await lost.list_all()
    await lost.library.close()
    assert await library.findings() == {}
    postponed = await library.rows("SELECT tries, due_at > now() AS later FROM auditor.library_scans")
    assert [(row.tries, row.later) for row in postponed] == [(1, True), (1, True)]


async def test_a_bucket_that_was_deleted_is_no_loss_of_each_file(library: LibraryHarness, s3_server: S3Server) -> None:
    """An administrator's token, which may ask for any bucket: the answer is 404, as for a file that is gone."""
    admin = replace(address_of(s3_server), bucket="no-such-bucket")
    access_key, secret_key = s3_server.credentials["admin"]
    lost = Library(replace(admin, access_key_id=access_key, secret_access_key=secret_key), Pace(1e9, 1e12))
    with pytest.raises(LibraryUnavailable):
        await lost.read("any", None)
    await lost.close()


async def test_the_token_of_the_auditor_may_only_read(library: LibraryHarness) -> None:
    asset = await library.store()
    client = library.s3.client("auditor")
    for operation, arguments in (
        ("put_object", {"Bucket": "library", "Key": "mine", "Body": b"x"}),
        ("delete_object", {"Bucket": "library", "Key": asset.output}),
        ("get_object", {"Bucket": "incoming", "Key": "any"}),
        ("list_objects_v2", {"Bucket": "uploads"}),
    ):
        with pytest.raises(ClientError) as error:
            getattr(client, operation)(**arguments)
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert client.get_object(Bucket="library", Key=asset.output)["Body"].read() == b"a clip"


async def test_only_so_many_findings_of_a_kind_are_kept_and_known_ones_stay(
    library: LibraryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_scanner, "MOST_OPEN", 1)
    library.put("a", b"whose?")
    await library.list_all()
    library.put("b", b"whose?")
    await library.make_due("bucket")
    await library.list_all()
    assert set(await library.findings()) == {"a"}
    (row,) = await library.rows("SELECT last_seen_at > first_seen_at AS again FROM auditor.findings")
    assert row.again


async def test_a_stranger_that_stays_waits_for_its_next_turn_behind_the_others(library: LibraryHarness) -> None:
    library.put("a", b"whose?")
    await library.list_all()
    await library.scanner.check_again()
    (row,) = await library.rows("SELECT last_seen_at > first_seen_at AS again, resolved_at FROM auditor.findings")
    assert row.again
    assert row.resolved_at is None


async def test_the_gauges_say_how_late_the_reading_is(library: LibraryHarness) -> None:
    await library.store()
    await library.scanner.make_scans(timedelta(0), timedelta(0))
    await library.execute(
        "UPDATE auditor.library_scans SET made_at = now() - interval '9 days', due_at = now() - interval '2 days'"
    )
    await library.scanner.make_scans()
    assert gauge("auditor_library_overdue_seconds") == pytest.approx(2 * 86_400, abs=60)
    assert gauge("auditor_library_oldest_read_seconds") == pytest.approx(9 * 86_400, abs=60)
    assert gauge("auditor_library_listing_age_seconds") == pytest.approx(9 * 86_400, abs=60)
    await library.read_all()
    await library.list_all()
    assert gauge("auditor_library_overdue_seconds") == 0
    assert gauge("auditor_library_oldest_read_seconds") < 60
    assert gauge("auditor_library_listing_age_seconds") < 60


async def test_assets_are_covered_once_they_are_old_enough(library: LibraryHarness) -> None:
    await library.store()
    await library.scanner.make_scans()
    await library.scanner.make_scans(new_for=timedelta(0))
    assert await library.rows("SELECT scan_id FROM auditor.library_scans WHERE kind = 'assets'") == []
    await library.scanner.make_scans(timedelta(0), timedelta(0))
    await library.scanner.make_scans(timedelta(0), timedelta(0))
    assert len(await library.rows("SELECT scan_id FROM auditor.library_scans WHERE kind = 'assets'")) == 1
