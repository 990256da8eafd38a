"""Reading what the provider says."""

import json
from typing import Any

import msgspec
import pytest

from generation.domain.provider_reports import (
    Failed,
    Rendering,
    Returned,
    UnreadableReport,
    Uploaded,
    Vanished,
    Waiting,
    read_report,
)


def body(status: str, **more: Any) -> bytes:
    return json.dumps({"id": "job-1", "status": status, "delayTime": 12, **more}).encode()


def test_what_the_database_cannot_hold_is_not_taken_from_a_worker() -> None:
    crashed = read_report(body("FAILED", error="out of \0 memory"), "mp4")
    assert isinstance(crashed, Failed)
    assert "\0" not in crashed.detail
    told = read_report(body("FAILED", error=json.dumps({"code": "invalid_input", "detail": "a\0b"})), "mp4")
    assert isinstance(told, Failed)
    assert "\0" not in told.detail
    reported = read_report(
        body("COMPLETED", executionTime=1e30, output={"outputs": [{}], "report": {"log": "a\0b"}}), "mp4"
    )
    assert isinstance(reported, Uploaded)
    assert (reported.report, reported.execution_ms) == (None, None)


@pytest.mark.parametrize(
    "file", [{"size_bytes": 2**63}, {"size_bytes": -1}, {"sha256": "a\0"}, {"content_type": "x" * 9999}]
)
def test_a_file_described_beyond_all_bounds_is_looked_for_by_storage(file: dict[str, Any]) -> None:
    assert isinstance(read_report(body("COMPLETED", output={"outputs": [file]}), "mp4"), Vanished)


@pytest.mark.parametrize(
    ("status", "kind"), [("IN_QUEUE", Waiting), ("IN_PROGRESS", Rendering), ("RUNNING", Rendering)]
)
def test_a_job_on_its_way_is_waiting_or_rendering(status: str, kind: type) -> None:
    report = read_report(body(status), "mp4")
    assert isinstance(report, kind)
    assert report.job_id == "job-1"


def test_our_workers_output_is_an_uploaded_file() -> None:
    output = {
        "outputs": [{"object_key": "ignored", "size_bytes": 10, "sha256": "ab", "content_type": "video/mp4"}],
        "report": {"renderer": "preview"},
    }
    report = read_report(body("COMPLETED", output=output, executionTime=1500), "mp4")
    assert report == Uploaded(
        job_id="job-1",
        size_bytes=10,
        sha256="ab",
        content_type="video/mp4",
        execution_ms=1500,
        report={"renderer": "preview"},
    )


def test_a_report_that_is_too_long_for_our_events_is_dropped() -> None:
    output = {"outputs": [{"size_bytes": 10}], "report": {"log": "x" * 20_000}}
    report = read_report(body("COMPLETED", output=output), "mp4")
    assert isinstance(report, Uploaded)
    assert report.report is None


def test_the_stock_workers_wanted_file_is_picked_by_its_extension() -> None:
    images = [
        {"filename": "mask.webp", "type": "base64", "data": "AA=="},
        {"filename": "out_00001_.png", "type": "s3_url", "data": "https://files.example.com/out.png"},
    ]
    report = read_report(body("COMPLETED", output={"images": images}), "png")
    assert isinstance(report, Returned)
    assert (report.filename, report.is_url) == ("out_00001_.png", True)


@pytest.mark.parametrize(
    "output", [None, {}, {"outputs": []}, {"images": []}, "done", {"images": [{"filename": "a.txt"}]}]
)
def test_completed_without_a_file_does_not_mean_delivered(output: Any) -> None:
    report = read_report(body("COMPLETED", output=output), "mp4")
    assert isinstance(report, Vanished)
    assert report.code == "output_missing"


@pytest.mark.parametrize("status", ["TIMED_OUT", "CANCELLED"])
def test_an_end_without_a_word_on_the_outcome_proves_nothing(status: str) -> None:
    assert isinstance(read_report(body(status), "mp4"), Vanished)


@pytest.mark.parametrize("where", ["error", "output", "output.error"])
def test_our_workers_error_is_found_wherever_the_provider_puts_it(where: str) -> None:
    error = json.dumps({"code": "bad_image", "detail": "no picture", "user_fault": True})
    more = {"error": {"error": error}, "output": {"output": error}, "output.error": {"output": {"error": error}}}[where]
    report = read_report(body("FAILED", **more), "mp4")
    assert report == Failed(job_id="job-1", code="invalid_input", detail="no picture", user_fault=True)


def test_a_code_of_ours_is_kept_and_a_foreign_one_means_that_execution_failed() -> None:
    for code, expected in (("execution_timeout", "execution_timeout"), ("oom", "execution_failed")):
        report = read_report(body("FAILED", error=json.dumps({"code": code, "detail": "d"})), "mp4")
        assert isinstance(report, Failed)
        assert report.code == expected
        assert not report.user_fault


def test_an_exception_in_the_sdk_is_told_without_its_traceback() -> None:
    error = json.dumps({"error_type": "<class 'ValueError'>", "error_message": "boom", "error_traceback": "File …"})
    report = read_report(body("FAILED", error=error), "mp4")
    assert isinstance(report, Failed)
    assert report.detail == "<class 'ValueError'>: boom"


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "garbage",
    [
        *(b"", b"{", b"[]", b'{"id": 1}', b'{"status": "DANCING"}', b"\xff", b'{"status": "\xff"}', DEEP),
        b'{"status": "COMPLETED", "output": ' + DEEP + b"}",
        b'{"status": "COMPLETED", "id": "a job\\n"}',
    ],
)
def test_garbage_is_unreadable(garbage: bytes) -> None:
    with pytest.raises(UnreadableReport):
        read_report(garbage, "mp4")


@pytest.mark.parametrize("error", [b'"\xff"', msgspec.json.encode('{"a":' + DEEP.decode() + "}")])
def test_a_failure_is_a_failure_even_if_its_reason_cannot_be_read(error: bytes) -> None:
    report = read_report(b'{"status": "FAILED", "error": ' + error + b"}", "mp4")
    assert isinstance(report, Failed)
    assert not report.user_fault


def test_a_file_whose_name_cannot_be_read_is_no_output() -> None:
    image = b'{"filename": "\xff.png", "type": "base64", "data": "aa"}'
    report = read_report(b'{"status": "COMPLETED", "output": {"images": [' + image + b"]}}", "png")
    assert isinstance(report, Vanished)
