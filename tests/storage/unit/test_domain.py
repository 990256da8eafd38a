"""What a file is compared with, and the keys under which it lies."""

from dataclasses import replace
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.object_keys import poster_key
from contracts.values import MediaProperties, ReportedOutput
from storage.domain import (
    ExpectedMedia,
    check_media,
    check_object_key,
    check_size_and_checksum,
    library_key,
)
from storage.errors import Rejected

ORDERED = ExpectedMedia(width_pixels=832, height_pixels=480, duration_ms=5000)


def reported_output(size_bytes: int | None = None, sha256: str | None = None) -> ReportedOutput:
    return ReportedOutput(attempt_id=uuid4(), attempt_number=1, object_key="x", size_bytes=size_bytes, sha256=sha256)


def video(duration_ms: int, width: int = 832, height: int = 480) -> MediaProperties:
    return MediaProperties(
        content_type="video/mp4", width_pixels=width, height_pixels=height, codec="h264", duration_ms=duration_ms
    )


def test_size_and_checksum_are_checked_only_if_they_are_reported() -> None:
    check_size_and_checksum(reported_output(), 17, "aa")


def test_a_checksum_may_be_written_in_capitals() -> None:
    check_size_and_checksum(reported_output(size_bytes=17, sha256="AB" * 32), 17, "ab" * 32)


@given(measured=st.integers(0, 20_000), ordered=st.integers(1, 15_000))
def test_a_clip_may_differ_by_half_a_second_or_a_tenth(measured: int, ordered: int) -> None:
    allowed = max(500, round(ordered / 10))
    if abs(measured - ordered) <= allowed:
        check_media(replace(ORDERED, duration_ms=ordered), video(measured))
    else:
        with pytest.raises(Rejected) as refusal:
            check_media(replace(ORDERED, duration_ms=ordered), video(measured))
        assert refusal.value.code == "wrong_dimensions"


def test_a_clip_with_swapped_sides_is_rejected() -> None:
    with pytest.raises(Rejected, match="480x832"):
        check_media(ORDERED, video(5000, width=480, height=832))


@pytest.mark.parametrize("key", ["", "other/1/output.mp4", "../{id}/1/output.mp4", "{id}", "{id}0/1/output.mp4"])
def test_a_file_must_lie_under_the_key_of_its_generation(key: str) -> None:
    generation_id = uuid4()
    check_object_key(generation_id, f"{generation_id}/2/output.mp4")
    with pytest.raises(Rejected) as refusal:
        check_object_key(generation_id, key.format(id=generation_id))
    assert refusal.value.code == "not_found"


def test_attempts_share_one_key_and_each_file_has_its_own_poster() -> None:
    user_id, generation_id = uuid4(), uuid4()
    assert library_key(user_id, generation_id, "mp4") == f"{user_id}/{generation_id}/output.mp4"
    assert poster_key(user_id, generation_id, "a" * 64) != poster_key(user_id, generation_id, "b" * 64)


@pytest.mark.parametrize(
    ("size_bytes", "sha256", "code"), [(18, "aa", "size_mismatch"), (17, "ab", "checksum_mismatch")]
)
def test_a_file_that_differs_from_the_report_is_rejected(size_bytes: int, sha256: str, code: str) -> None:
    with pytest.raises(Rejected) as refusal:
        check_size_and_checksum(reported_output(size_bytes=17, sha256="aa"), size_bytes, sha256)
    assert refusal.value.code == code


def test_a_picture_has_only_its_dimensions_checked() -> None:
    picture = MediaProperties(content_type="image/png", width_pixels=832, height_pixels=480, codec="png")
    check_media(replace(ORDERED, duration_ms=None), picture)
    with pytest.raises(Rejected, match="832x481"):
        check_media(replace(ORDERED, duration_ms=None), msgspec.structs.replace(picture, height_pixels=481))
