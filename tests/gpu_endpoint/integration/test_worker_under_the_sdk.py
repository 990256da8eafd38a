"""The real worker under RunPod's real SDK, against the emulator: clips, pictures, failures, stopping, dying."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from tests.gpu_endpoint.worker import BucketHarness, WorkerHarness, needs_environment, running_bucket, running_worker
from tests.local_platform.runpod import RunPodHarness, client_of, emulator_process, running_emulator
from tests.support.waiting import eventually

pytestmark = needs_environment

SLOW: dict[str, Any] = {"width": 1280, "height": 720, "duration_seconds": 60, "frames_per_second": 60}
"""A clip that takes a minute or more to render."""


@pytest.fixture(scope="module")
def emulator_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with emulator_process(tmp_path_factory.mktemp("emulator"), "--worker-poll-seconds", "1") as url:
        yield url


@pytest.fixture(scope="module")
def worker(emulator_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerHarness]:
    """One worker for all tests that do not harm it: a start takes seconds."""
    with running_worker(emulator_url, tmp_path_factory.mktemp("worker")) as worker:
        yield worker


@pytest.fixture
async def runpod(emulator_url: str, worker: WorkerHarness) -> AsyncIterator[RunPodHarness]:
    """A client. After the test, emulator and worker are as before."""
    async with client_of(emulator_url) as runpod:
        yield runpod
        await runpod.http.delete(f"{runpod.url}/admin/rules")
        await runpod.settings(time_scale=1)
        for job in await runpod.jobs(status="IN_PROGRESS"):
            await runpod.call("POST", f"cancel/{job['id']}")
        await eventually(lambda: not worker.files(), what="the end of the last job")


@pytest.fixture
async def bucket(tmp_path: Path) -> AsyncIterator[BucketHarness]:
    async with running_bucket(tmp_path) as bucket:
        yield bucket


async def test_a_clip_is_rendered_as_asked_and_uploaded(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    job_id = await runpod.run(bucket.job("clip"))
    body = await runpod.ended(job_id, "COMPLETED", timeout=60)
    [output] = body["output"]["outputs"]
    found = bucket.uploads["clip"]
    assert output == {
        "object_key": "clip",
        "size_bytes": found["size"],
        "sha256": found["sha256"],
        "content_type": "video/mp4",
    }
    assert (found["type"], found["length"]) == ("video/mp4", str(found["size"]))
    with av.open(str(bucket.directory / "clip")) as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (832, 480)
        assert stream.average_rate == Fraction(16)
        assert container.duration == 3_000_000
        assert "preview" in container.metadata["comment"]
        assert len(list(container.decode(video=0))) == 48
    report = body["output"]["report"]
    assert (report["renderer"], report["frames"]) == ("preview", 48)
    assert report["render_seconds"] > 0


async def test_a_picture_is_rendered_as_asked_and_uploaded(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    job_id = await runpod.run(bucket.job("picture", "image", width=1000, height=601))
    body = await runpod.ended(job_id, "COMPLETED", timeout=60)
    assert body["output"]["outputs"][0]["content_type"] == "image/png"
    with av.open(str(bucket.directory / "picture")) as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.width, stream.height) == ("png", 1000, 601)
    assert b"tEXtComment\0Reelhouse preview" in (bucket.directory / "picture").read_bytes()


async def test_a_clip_starts_from_the_given_picture(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    bucket.pictures["image.png"] = b"P6 600 800 255\n" + bytes((200, 30, 30)) * 600 * 800
    job_id = await runpod.run(bucket.job("from-picture"))
    await runpod.ended(job_id, "COMPLETED", timeout=60)
    with av.open(str(bucket.directory / "from-picture")) as container:
        plane = next(container.decode(video=0)).reformat(format="rgb24").planes[0]
    red, green, blue = bytes(plane)[200 * plane.line_size + 700 * 3 :][:3]
    assert red > 150 > 80 > max(green, blue)


async def test_an_unreadable_input_picture_is_the_users_fault(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    bucket.pictures["image.png"] = b"this is no picture"
    job_id = await runpod.run(bucket.job("x"))
    body = await runpod.ended(job_id, "FAILED", timeout=60)
    error = json.loads(body["error"])
    assert (error["code"], error["user_fault"]) == ("invalid_input", True)
    assert "output" not in body
    assert bucket.uploads == {}


async def test_a_malformed_job_is_not_the_users_fault_and_the_worker_goes_on(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    broken = await runpod.run({"schema": 1, "kind": "video"})
    error = json.loads((await runpod.ended(broken, "FAILED", timeout=60))["error"])
    assert (error["code"], error["user_fault"]) == ("malformed_job", False)
    await runpod.ended(await runpod.run(bucket.job("next", "image")), "COMPLETED", timeout=30)


async def test_a_file_larger_than_allowed_is_not_uploaded(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    job = bucket.job("x", "image")
    job["output"]["max_size_bytes"] = 1000
    error = json.loads((await runpod.ended(await runpod.run(job), "FAILED", timeout=60))["error"])
    assert (error["code"], error["user_fault"]) == ("output_too_large", False)
    assert bucket.uploads == {}


async def test_an_upload_is_repeated_after_a_server_error_only(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    bucket.put_answers = [503, 500]
    await runpod.ended(await runpod.run(bucket.job("again", "image")), "COMPLETED", timeout=60)
    assert bucket.put_answers == []
    bucket.put_answers = [403, 200]
    error = json.loads((await runpod.ended(await runpod.run(bucket.job("no", "image")), "FAILED", timeout=30))["error"])
    assert (error["code"], bucket.put_answers) == ("upload_failed", [200])


async def test_progress_is_posted_at_most_once_a_second_and_only_grows(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    await runpod.run(bucket.job("x", **SLOW))
    await eventually(lambda: bucket.progress, timeout=60, what="the first post")
    began = time.monotonic()
    await eventually(lambda: len(bucket.progress) >= 3, timeout=20, what="two more")
    assert time.monotonic() - began >= 1.8
    percents = [post["percent"] for post in bucket.progress]
    assert percents == sorted(percents)
    assert all(0 <= percent <= 100 for percent in percents)
    assert {post["stage"] for post in bucket.progress} == {"rendering"}
    assert all(post["steps"] == 20 and 0 <= post["step"] <= 20 for post in bucket.progress)


async def test_progress_that_is_refused_harms_nothing(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    bucket.progress_status = 404
    await runpod.ended(await runpod.run(bucket.job("x")), "COMPLETED", timeout=60)
    assert len(bucket.progress) == 1


async def test_cancelling_stops_the_render_and_leaves_no_file(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    ignored = (await runpod.requests())["ignored_results"]
    job_id = await runpod.run(bucket.job("x", **SLOW))
    await eventually(lambda: worker.files() and bucket.progress, timeout=60, what="the render")
    await runpod.call("POST", f"cancel/{job_id}")
    await eventually(lambda: worker.stopped(job_id) and not worker.files(), timeout=5, what="the stop")
    assert (await runpod.status(job_id))["status"] == "CANCELLED"
    after = await runpod.run(bucket.job("after", "image"))
    await runpod.ended(after, "COMPLETED", timeout=10)
    assert list(bucket.uploads) == ["after"]
    assert (await runpod.requests())["ignored_results"] == ignored


async def test_an_execution_timeout_stops_the_render(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    await runpod.settings(time_scale=10)
    job_id = await runpod.run(bucket.job("x", **SLOW), policy={"executionTimeout": 10_000})
    await runpod.ended(job_id, "TIMED_OUT", timeout=60)
    await eventually(lambda: worker.stopped(job_id) and not worker.files(), timeout=5, what="the stop")


async def test_a_local_worker_runs_without_the_sdks_system_checks(bucket: BucketHarness, tmp_path: Path) -> None:
    """They want 4 GB of free memory, a tenth of the disk, and Google's name server. A picture needs none of that."""
    async with running_emulator(worker_poll_seconds=1) as runpod:
        with running_worker(runpod.url, tmp_path, RUNPOD_MIN_DISK_PERCENT="101"):
            await runpod.ended(await runpod.run(bucket.job("picture", "image")), "COMPLETED", timeout=30)


async def test_a_worker_does_the_job_of_another_one_that_was_killed(bucket: BucketHarness, tmp_path: Path) -> None:
    async with running_emulator(worker_poll_seconds=1, worker_lease_seconds=5) as runpod:
        with running_worker(runpod.url, tmp_path, "w1") as first, running_worker(runpod.url, tmp_path, "w2") as second:

            async def both_idle() -> bool:
                return bool((await runpod.call("GET", "health")).json()["workers"]["idle"] == 2)

            await eventually(both_idle, timeout=60, what="two workers")
            jobs = [bucket.job("long", duration_seconds=30), bucket.job("short", duration_seconds=1)]
            ids = [await runpod.run(job) for job in jobs]

            await eventually(lambda: bucket.uploads, timeout=60, what="the short clip")
            assert {job["workerId"] for job in await runpod.jobs()} == {"w1", "w2"}
            [victim] = [job["workerId"] for job in await runpod.jobs(id=ids[0])]
            (first if victim == "w1" else second).process.kill()
            done = await runpod.ended(ids[0], "COMPLETED", timeout=60)
            assert done["workerId"] != victim
    assert sorted(bucket.uploads) == ["long", "short"]


async def test_a_late_success_uploads_its_file_after_the_job_timed_out(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    await runpod.rule("late_success")
    job_id = await runpod.run(bucket.job("late"))
    await runpod.ended(job_id, "TIMED_OUT", timeout=60)
    await eventually(lambda: "late" in bucket.uploads, timeout=20, what="the upload")
    assert (await runpod.status(job_id))["status"] == "TIMED_OUT"


async def test_the_log_holds_neither_the_prompt_nor_a_signature(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    job = bucket.job("x", "image", prompt="a very private wish")
    await runpod.ended(await runpod.run(job), "COMPLETED", timeout=60)
    await eventually(lambda: "prompt_fingerprint" in worker.log(), what="the log")
    assert "private" not in worker.log()
    assert "signature" not in worker.log()
