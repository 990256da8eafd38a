"""Addresses of files."""

import pytest

from contracts.values import MediaProperties
from gateway.file_urls import FileUrls
from gateway.records import StoredFile, StoredPreviews
from service_runtime.database_watch import DatabaseClock
from tests.gateway.unit.unconnected import settings


@pytest.mark.parametrize(("content_type", "ending"), [("image/png", "png"), ("image/webp", "webp")])
def test_a_picture_is_saved_under_the_ending_of_its_type(content_type: str, ending: str) -> None:
    media = MediaProperties(content_type=content_type, width_pixels=1, height_pixels=1, codec="any")
    key = "user/generation/output.png"
    file = StoredFile(key, key, size_bytes=1, sha256="0" * 64, media=media)
    download = FileUrls(settings(), DatabaseClock()).download(file, StoredPreviews(), "a-name")
    assert download.file_name == f"a-name.{ending}"
