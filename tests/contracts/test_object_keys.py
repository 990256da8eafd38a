"""Object keys are part of what services agree on: a change would lose files that are under way."""

from uuid import UUID

from contracts.object_keys import MAX_UPLOAD_BYTES, output_key, upload_key

ONE = UUID("01a20697-b8a1-76b0-9955-8523f3f0ac3d")
OTHER = UUID("01a20697-b8a1-76b0-9955-8523f3f0ac3e")


def test_the_keys_and_the_limit_are_those_that_files_lie_under() -> None:
    assert output_key(ONE, 2, "mp4") == f"{ONE}/2/output.mp4"
    assert upload_key(ONE, OTHER) == f"{ONE}/{OTHER}"
    assert MAX_UPLOAD_BYTES == 20_971_520
