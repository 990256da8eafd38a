"""An output is stored if every browser plays it, and it is whole and in the container that was ordered."""

import io
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import av
import msgspec
import pytest

from contracts.values import Kind
from storage.decoding import Inspection
from storage.domain import ExpectedMedia, check_format
from storage.errors import Rejected
from storage.inspection import inspect
from tests.support.media import coded_clip, picture, with_edit_list

ORDERED = ExpectedMedia(width_pixels=64, height_pixels=64, duration_ms=500, extension="mp4")
PIECES = ("frag_keyframe+empty_moov", "dash+empty_moov", "frag_every_frame+empty_moov")


def inspected(directory: Path, body: bytes, kind: Kind = "video") -> Inspection:
    path = directory / "output"
    path.write_bytes(body)
    return inspect(str(path), kind, 1_000_000)


def refusal_of(directory: Path, body: bytes, ordered: str = "mp4") -> str:
    with pytest.raises(Rejected) as refusal:
        check_format(replace(ORDERED, extension=ordered), inspected(directory, body))
    return refusal.value.code


@pytest.mark.parametrize(
    ("container", "codec", "pixels"),
    [
        ("mp4", "libx264", "yuv420p"),
        ("mp4", "libx264", "yuvj420p"),
        ("webm", "libvpx", "yuv420p"),
        ("webm", "libvpx-vp9", "yuv420p"),
    ],
)
def test_what_every_browser_plays_is_accepted(tmp_path: Path, container: str, codec: str, pixels: str) -> None:
    inspection = inspected(tmp_path, coded_clip(container, codec, pixels))
    check_format(replace(ORDERED, extension=container), inspection)
    # Requests of the release before do not say what was ordered.
    check_format(replace(ORDERED, extension=None), inspection)
    assert inspection.media.content_type == f"video/{container}"


@pytest.mark.parametrize(
    ("container", "codec", "pixels", "ordered"),
    [
        ("matroska", "libx264", "yuv420p", "mp4"),
        ("matroska", "libx264", "yuv420p", "webm"),
        ("matroska", "libvpx-vp9", "yuv420p", "webm"),
        ("webm", "libvpx-vp9", "yuv420p", "mp4"),
        ("mp4", "libx264", "yuv420p", "webm"),
        ("mov", "libx264", "yuv420p", "mp4"),
        ("mov", "prores_ks", "yuv422p10le", "mp4"),
        ("mp4", "libx265", "yuv420p10le", "mp4"),
        ("mp4", "libx265", "yuv420p", "mp4"),
        ("mp4", "libx264", "yuv420p10le", "mp4"),
        ("mp4", "libx264", "yuv422p", "mp4"),
        ("mp4", "libx264", "yuv444p", "mp4"),
        ("mp4", "mpeg4", "yuv420p", "mp4"),
        ("webm", "libvpx-vp9", "yuv444p", "webm"),
    ],
)
def test_what_was_not_ordered_or_does_not_play_is_refused(
    tmp_path: Path, container: str, codec: str, pixels: str, ordered: str
) -> None:
    assert refusal_of(tmp_path, coded_clip(container, codec, pixels), ordered) == "wrong_format"


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("webm", "libvpx-vp9")])
@pytest.mark.parametrize("hdr", [16, 18])
def test_hdr_is_refused_however_many_bits_it_has(tmp_path: Path, container: str, codec: str, hdr: int) -> None:
    clip = coded_clip(container, codec, "yuv420p", color_transfer=hdr)
    assert refusal_of(tmp_path, clip, container) == "wrong_format"


def test_sound_that_a_browser_does_not_play_is_refused(tmp_path: Path) -> None:
    inspection = inspected(tmp_path, coded_clip("mp4", "libx264", "yuv420p"))
    check_format(ORDERED, replace_audio(inspection, "aac"))
    with pytest.raises(Rejected) as refusal:
        check_format(ORDERED, replace_audio(inspection, "ac3"))
    assert refusal.value.code == "wrong_format"


def replace_audio(inspection: Inspection, codec: str) -> Inspection:
    return msgspec.structs.replace(inspection, audio_codecs=(codec,))


def test_a_picture_may_come_as_another_type_of_picture(tmp_path: Path) -> None:
    inspection = inspected(tmp_path, picture(), "image")
    for extension in ("png", "jpg", "webp"):
        check_format(replace(ORDERED, extension=extension), inspection)


@pytest.mark.parametrize(("skipped", "shown"), [(4, 76), (0, 76), (8, 64), (0, 80)])
def test_the_frames_that_a_player_presents_are_counted(tmp_path: Path, skipped: int, shown: int) -> None:
    whole = coded_clip("mp4", "libx264", "yuv420p", frames=80)
    media = inspected(tmp_path, with_edit_list(whole, skipped, shown)).media
    assert (media.frames, media.duration_ms) == (shown, shown * 1000 // 16)


@pytest.mark.parametrize("flags", PIECES)
def test_a_fragmented_clip_that_lacks_frames_is_refused(tmp_path: Path, flags: str) -> None:
    """No index says how many frames there should be, and a decoder misses none where the cut is between two."""
    whole = coded_clip("mp4", "libx264", "yuv420p", frames=80, options={"movflags": flags})
    assert inspected(tmp_path, whole).media.frames == 80
    last_data = whole.rindex(b"mdat") - 4
    for cut in (last_data + 8, last_data + 40, last_data - 20, last_data - 4):
        with pytest.raises(Rejected) as refusal:
            inspected(tmp_path, whole[:cut])
        assert refusal.value.code == "undecodable"


def test_a_fragment_that_lacks_three_whole_frames_is_refused(tmp_path: Path) -> None:
    whole = coded_clip("mp4", "libx264", "yuv420p", frames=80, options={"movflags": "dash+empty_moov"})
    with av.open(io.BytesIO(whole), "r") as container:
        (video,) = container.streams.video
        assert len(list(container.decode(video))) == 80
        places = [entry.pos for entry in video.index_entries]
    with pytest.raises(Rejected, match="truncated"):
        inspected(tmp_path, whole[: places[-3]])


@pytest.mark.parametrize("missing", [1, 40, 400])
def test_a_truncated_webm_is_refused(tmp_path: Path, missing: int) -> None:
    whole = coded_clip("webm", "libvpx-vp9", "yuv420p")
    with pytest.raises(Rejected, match="truncated"):
        inspected(tmp_path, whole[:-missing])


def test_bytes_behind_a_whole_clip_do_no_harm(tmp_path: Path) -> None:
    whole = coded_clip("mp4", "libx264", "yuv420p")
    for padding in (b"\0" * 100, b"\0\0", b"\xff" * 100):
        assert inspected(tmp_path, whole + padding).media.frames == 8


def test_a_codec_has_one_name_whatever_decodes_it(tmp_path: Path) -> None:
    # Run as root, SVT-AV1 gives its process a real-time priority: here all later tests, and the servers they start.
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as encoder:
        clip = encoder.submit(coded_clip, "mp4", "libsvtav1", "yuv420p", frames=2).result()
    assert inspected(tmp_path, clip).media.codec == "av1"
