"""The preview renderer: the asked pixels, the same each time, and a stop that stops."""

import asyncio
import io
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from gpu_endpoint.failures import InvalidInput
from gpu_endpoint.job import RenderJob
from gpu_endpoint.progress import Progress
from gpu_endpoint.renderers import RENDERERS
from gpu_endpoint.renderers.preview.lettering import lettered_panel
from gpu_endpoint.renderers.preview.scene import open_input
from gpu_endpoint.renderers.stoppable import StopFlag, run_stoppable

MakeJob = Callable[..., RenderJob]


async def render(job: RenderJob, directory: Path, images: list[Path] | None = None) -> tuple[Path, list[Progress]]:
    directory.mkdir(exist_ok=True)
    reports: list[Progress] = []
    rendered = await RENDERERS["preview"]({}).render(job, images or [], directory, reports.append)
    return rendered.path, reports


def frames(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


@pytest.mark.parametrize(("rate", "seconds", "count"), [(8, 1, 8), (16, 2.5, 40), (29.97, 1, 30), (24, 0.01, 1)])
async def test_a_clip_has_the_asked_rate_and_length(
    make_job: MakeJob, tmp_path: Path, rate: float, seconds: float, count: int
) -> None:
    path, _ = await render(make_job(frames_per_second=rate, duration_seconds=seconds), tmp_path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(rate).limit_denominator(1001)
    assert len(frames(path)) == count


async def test_a_clip_of_a_clip_begins_with_its_first_frame(make_job: MakeJob, tmp_path: Path) -> None:
    source, _ = await render(make_job(prompt="the user's own"), tmp_path / "source")
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(source.read_bytes())
    drawn, _ = await render(make_job(), tmp_path / "drawn", [clip])
    plain, _ = await render(make_job(), tmp_path / "plain")
    assert not np.array_equal(frames(drawn)[0], frames(plain)[0])
    clip.write_bytes(b"no clip")
    with pytest.raises(InvalidInput):
        await render(make_job(), tmp_path / "broken", [clip])


async def test_the_picture_moves(make_job: MakeJob, tmp_path: Path) -> None:
    path, _ = await render(make_job(), tmp_path)
    first, *_, last = frames(path)
    assert np.abs(first - last).mean() > 5


async def test_the_same_job_gives_the_same_file_and_another_seed_or_prompt_another(
    make_job: MakeJob, tmp_path: Path
) -> None:
    jobs = [make_job(), make_job(), make_job(seed=8), make_job(prompt="a tiger")]
    paths = [(await render(job, tmp_path / str(number)))[0] for number, job in enumerate(jobs)]
    first, again, other_seed, other_prompt = (frames(path)[0] for path in paths)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other_seed)
    assert not np.array_equal(first, other_prompt)


async def test_progress_grows_to_the_end_of_rendering(make_job: MakeJob, tmp_path: Path) -> None:
    _, reports = await render(make_job(steps=4), tmp_path)
    percents = [report.percent for report in reports]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (0, 95)
    assert reports[-1] == Progress(percent=95, stage="encoding", step=4, steps=4)


async def test_a_clip_is_shown_small_while_it_is_drawn(make_job: MakeJob, tmp_path: Path) -> None:
    _, reports = await render(make_job(width=832, height=480), tmp_path)
    for report in reports[:-1]:
        assert report.preview is not None
        with Image.open(io.BytesIO(report.preview)) as picture:
            assert (picture.format, picture.size) == ("JPEG", (320, 185))
    assert len(reports[0].preview or b"") < 32 * 1024


async def test_a_cancelled_render_ends_within_a_second_and_its_thread_with_it(
    make_job: MakeJob, tmp_path: Path
) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(executor := ThreadPoolExecutor())
    job = make_job(width=1280, height=720, duration_seconds=60, frames_per_second=60)

    def report(_: Progress) -> None:
        loop.call_soon_threadsafe(started.set)

    task = asyncio.create_task(RENDERERS["preview"]({}).render(job, [], tmp_path, report))
    await started.wait()
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    executor.shutdown(wait=True)
    assert time.monotonic() - began < 3, "a frame takes some 30 ms, the whole clip minutes"


async def test_a_render_that_is_cancelled_again_while_it_stops_is_still_waited_for() -> None:
    """The provider may repeat its signal: the job's directory must not be removed under a thread that writes to it."""
    started, may_end = asyncio.Event(), threading.Event()
    loop, ended = asyncio.get_running_loop(), False

    def one_long_frame(stop: StopFlag) -> None:
        nonlocal ended
        loop.call_soon_threadsafe(started.set)
        may_end.wait(10)
        ended = True

    task = asyncio.create_task(run_stoppable(one_long_frame))
    await started.wait()
    try:
        for _ in range(3):
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            assert not task.done()
    finally:
        may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended


async def test_the_given_picture_fills_the_frame_upright(make_job: MakeJob, tmp_path: Path) -> None:
    picture = tmp_path / "image.png"
    Image.new("RGB", (50, 400), (10, 200, 10)).save(picture)
    path, _ = await render(make_job("image"), tmp_path / "out", [picture])
    with Image.open(path) as image:
        assert image.getpixel((120, 30)) == (10, 200, 10)


@pytest.mark.parametrize("tag", [{282: (-1, 0)}, {282: "abc"}, {256: "abc"}, {}])
def test_a_picture_is_turned_by_its_exif_whatever_else_that_says(tmp_path: Path, tag: dict[int, object]) -> None:
    picture = tmp_path / "image.jpg"
    halves = Image.new("RGB", (64, 64), (250, 10, 10))
    halves.paste((10, 10, 250), (0, 32, 64, 64))
    exif = Image.Exif()
    exif[274] = 3
    halves.save(picture, exif=bytes_of(exif, tag))
    assert np.asarray(open_input(picture))[4, 32, 2] > 200, "the blue half is on top"


def bytes_of(exif: Image.Exif, tag: dict[int, object]) -> bytes:
    """The EXIF with a tag beside the orientation, in a form that Pillow itself would not write."""
    entries = [(274, 3, 1, struct.pack("<HH", exif[274], 0))]
    data = b""
    for number, value in tag.items():
        if isinstance(value, str):
            entries.append((number, 2, 4, value.encode() + b"\0"))
        else:
            entries.append((number, 10, 1, struct.pack("<I", 8 + 2 + 12 * 2 + 4)))
            data = struct.pack("<ii", -1, 0)
    directory = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + data


def test_a_picture_that_lacks_its_last_bytes_is_read(tmp_path: Path) -> None:
    for name in ("image.jpg", "image.png"):
        picture = tmp_path / name
        Image.effect_noise((200, 200), 80).convert("RGB").save(picture)
        picture.write_bytes(picture.read_bytes()[:-20])
        assert open_input(picture).size == (200, 200)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n broken"])
async def test_a_broken_picture_is_the_users_fault(make_job: MakeJob, tmp_path: Path, content: bytes) -> None:
    picture = tmp_path / "image.png"
    picture.write_bytes(content)
    with pytest.raises(InvalidInput):
        await render(make_job(), tmp_path / "out", [picture])


@pytest.mark.parametrize("prompt", ["", "x" * 5000, "word " * 2000, "line\nbreak\x00\ttab", "日本語 emoji 🎬", "a"])
@pytest.mark.parametrize(("width", "height"), [(16, 16), (64, 2048), (2048, 64), (832, 480)])
def test_any_text_fits_into_any_panel(prompt: str, width: int, height: int) -> None:
    panel = lettered_panel(prompt, size=30, width=width, height=height, footer="facts")
    assert panel.width <= width
    assert panel.height <= height


@pytest.mark.parametrize(("width", "height"), [(16, 16), (16, 1024), (1024, 16)])
async def test_extreme_sizes_are_drawn(make_job: MakeJob, tmp_path: Path, width: int, height: int) -> None:
    path, _ = await render(make_job("image", width=width, height=height, prompt="long " * 300), tmp_path)
    with Image.open(path) as image:
        assert image.size == (width, height)
