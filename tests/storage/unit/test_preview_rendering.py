"""The small pictures of an output: their sizes, what they show, and how they move."""

import io
from itertools import pairwise
from pathlib import Path

import av
import pytest
from PIL import Image, ImageChops, ImageStat

from contracts.values import Kind
from storage.decoding import RenderedPreview
from storage.errors import Rejected
from storage.preview_rendering import ANIMATED_SIDE_PIXELS, MAX_ANIMATED_FRAMES, THUMBNAIL_SIDES_PIXELS, render_previews
from tests.support.media import clip, coded_clip, picture

PIXELS = 50_000_000


def rendered(tmp_path: Path, body: bytes, kind: Kind) -> tuple[RenderedPreview, ...]:
    path = tmp_path / "output"
    path.write_bytes(body)
    return render_previews(str(path), kind, PIXELS)


def opened(preview: RenderedPreview) -> Image.Image:
    image = Image.open(io.BytesIO(preview.body))
    assert image.format == "WEBP"
    assert image.size == (preview.width_pixels, preview.height_pixels)
    return image


def sizes(previews: tuple[RenderedPreview, ...], role: str = "thumbnail") -> list[tuple[int, int]]:
    return [opened(one).size for one in previews if one.role == role]


def difference(one: Image.Image, other: Image.Image) -> float:
    """The mean over pixels and colours, of 255."""
    same_size = other.convert("RGB").resize(one.size)
    return sum(ImageStat.Stat(ImageChops.difference(one.convert("RGB"), same_size)).mean) / 3


def frames(image: Image.Image) -> list[tuple[Image.Image, int]]:
    """Each frame with its milliseconds."""
    found = []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        found.append((image.convert("RGB"), image.info["duration"]))
    return found


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1280, 720), [(256, 144), (512, 288), (1024, 576)]),
        ((480, 832), [(148, 256), (295, 512), (480, 832)]),
        ((320, 240), [(256, 192), (320, 240)]),
        ((64, 64), [(64, 64)]),
    ],
)
def test_thumbnails_have_three_sizes_and_none_is_enlarged(
    tmp_path: Path, size: tuple[int, int], expected: list[tuple[int, int]]
) -> None:
    previews = rendered(tmp_path, picture(*size), "image")
    assert sizes(previews) == expected
    assert len(expected) <= len(THUMBNAIL_SIDES_PIXELS)
    assert sizes(previews, "animated") == []


def test_a_thumbnail_shows_the_picture(tmp_path: Path) -> None:
    shades = [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.linear_gradient("L").rotate(90)]
    buffer = io.BytesIO()
    original = Image.merge("RGB", shades).resize((640, 480))
    original.save(buffer, "PNG")
    for thumbnail in rendered(tmp_path, buffer.getvalue(), "image"):
        assert difference(opened(thumbnail), original) < 3


def test_the_thumbnails_of_a_clip_show_its_middle_frame(tmp_path: Path) -> None:
    body = clip(64, 64, frames=16)
    thumbnail, _ = rendered(tmp_path, body, "video")
    with av.open(io.BytesIO(body), "r") as whole:
        shown: list[Image.Image] = [frame.to_image() for frame in whole.decode(video=0)]  # type: ignore[no-untyped-call]
    differences = [difference(opened(thumbnail), frame) for frame in shown]
    assert differences.index(min(differences)) == 8


def test_a_clip_moves_at_its_own_speed_for_three_seconds(tmp_path: Path) -> None:
    previews = rendered(tmp_path, clip(64, 64, frames=96, rate=24), "video")
    shown = frames(opened(previews[-1]))
    assert sum(milliseconds for _, milliseconds in shown) == pytest.approx(3000, abs=5)
    assert len(shown) == MAX_ANIMATED_FRAMES
    assert all(difference(before, after) > 0 for (before, _), (after, _) in pairwise(shown))


def test_a_clip_with_few_frames_is_not_sped_up(tmp_path: Path) -> None:
    previews = rendered(tmp_path, clip(640, 480, frames=5, rate=2), "video")
    assert sizes(previews, "animated") == [(ANIMATED_SIDE_PIXELS, 240)]
    assert [milliseconds for _, milliseconds in frames(opened(previews[-1]))] == [500, 500, 500, 500, 125]


def test_a_clip_of_one_frame_does_not_move(tmp_path: Path) -> None:
    assert sizes(rendered(tmp_path, clip(64, 64, frames=1), "video"), "animated") == []


def test_every_clip_that_is_delivered_has_previews(tmp_path: Path) -> None:
    for body in (coded_clip("webm", "libvpx-vp9", "yuv420p"), clip(64, 64, index_in_front=False)):
        previews = rendered(tmp_path, body, "video")
        assert [one.role for one in previews][-1] == "animated"


def test_a_broken_output_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(Rejected):
        rendered(tmp_path, picture()[:200], "image")
