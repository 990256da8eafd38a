"""What a file is held against, and where it lives."""

from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.values import MediaProperties, OutputClaim
from storage.domain import Expectation, check_bytes, check_key, check_media, library_key, poster_key
from storage.errors import Rejected

ASKED = Expectation(width_pixels=832, height_pixels=480, duration_ms=5000)


def claim(**stated: object) -> OutputClaim:
    return OutputClaim(attempt_id=uuid4(), attempt_number=1, object_key="x", **stated)  # type: ignore[arg-type]


def video(duration_ms: int, width: int = 832, height: int = 480) -> MediaProperties:
    return MediaProperties(
        content_type="video/mp4", width_pixels=width, height_pixels=height, codec="h264", duration_ms=duration_ms
    )


def test_a_claim_that_states_nothing_is_held_against_nothing() -> None:
    check_bytes(claim(), 17, "aa")


def test_a_checksum_may_be_written_in_capitals() -> None:
    check_bytes(claim(size_bytes=17, sha256="AB" * 32), 17, "ab" * 32)


@given(found=st.integers(0, 20_000), asked=st.integers(1, 15_000))
def test_a_clip_may_differ_by_half_a_second_or_a_tenth(found: int, asked: int) -> None:
    allowed = max(500, round(asked / 10))
    if abs(found - asked) <= allowed:
        check_media(replace(ASKED, duration_ms=asked), video(found))
    else:
        with pytest.raises(Rejected) as refusal:
            check_media(replace(ASKED, duration_ms=asked), video(found))
        assert refusal.value.code == "wrong_dimensions"


def test_a_clip_lying_on_its_side_is_not_what_was_asked_for() -> None:
    with pytest.raises(Rejected, match="480x832"):
        check_media(ASKED, video(5000, width=480, height=832))


@pytest.mark.parametrize("key", ["", "other/1/output.mp4", "../{id}/1/output.mp4", "{id}", "{id}0/1/output.mp4"])
def test_a_file_is_taken_only_from_under_its_own_generation(key: str) -> None:
    generation_id = uuid4()
    check_key(generation_id, f"{generation_id}/2/output.mp4")
    with pytest.raises(Rejected) as refusal:
        check_key(generation_id, key.format(id=generation_id))
    assert refusal.value.code == "not_found"


def test_every_attempt_has_the_same_key_and_every_file_a_poster_of_its_own() -> None:
    user_id, generation_id = uuid4(), uuid4()
    assert library_key(user_id, generation_id, "video/mp4") == f"{user_id}/{generation_id}/output.mp4"
    assert poster_key(user_id, generation_id, "a" * 64) != poster_key(user_id, generation_id, "b" * 64)
