"""Reading what the provider reports."""

import json
from typing import Any

import msgspec
import pytest

from generation.domain.provider_reports import (
    JobFailed,
    JobLost,
    JobQueued,
    JobRunning,
    OutputReturned,
    OutputUploaded,
    UnreadableReport,
    read_report,
)


def body(status: str, **more: Any) -> bytes:
    return json.dumps({"id": "job-1", "status": status, "delayTime": 12, **more}).encode()


def test_what_the_database_cannot_store_is_not_taken_from_a_worker() -> None:
    crashed = read_report(body("FAILED", error="out of \0 memory"), "mp4")
    assert isinstance(crashed, JobFailed)
    assert "\0" not in crashed.detail
    told = read_report(body("FAILED", error=json.dumps({"code": "invalid_input", "detail": "a\0b"})), "mp4")
    assert isinstance(told, JobFailed)
    assert "\0" not in told.detail
    reported = read_report(
        body("COMPLETED", executionTime=1e30, output={"outputs": [{}], "report": {"log": "a\0b"}}), "mp4"
    )
    assert isinstance(reported, OutputUploaded)
    assert (reported.report, reported.execution_ms) == (None, None)


@pytest.mark.parametrize(
    "file", [{"size_bytes": 2**63}, {"size_bytes": -1}, {"sha256": "a\0"}, {"content_type": "x" * 9999}]
)
def test_a_file_described_beyond_all_bounds_is_looked_up_by_storage(file: dict[str, Any]) -> None:
    assert isinstance(read_report(body("COMPLETED", output={"outputs": [file]}), "mp4"), JobLost)


@pytest.mark.parametrize(
    ("status", "kind"), [("IN_QUEUE", JobQueued), ("IN_PROGRESS", JobRunning), ("RUNNING", JobRunning)]
)
def test_a_job_that_is_not_over_is_queued_or_running(status: str, kind: type) -> None:
    report = read_report(body(status), "mp4")
    assert isinstance(report, kind)
    assert report.job_id == "job-1"


def test_our_workers_output_is_an_uploaded_file() -> None:
    output = {
        "outputs": [{"object_key": "ignored", "size_bytes": 10, "sha256": "ab", "content_type": "video/mp4"}],
        "report": {"renderer": "preview"},
    }
    report = read_report(body("COMPLETED", output=output, executionTime=1500), "mp4")
    assert report == OutputUploaded(
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
    assert isinstance(report, OutputUploaded)
    assert report.report is None


def test_the_stock_workers_wanted_file_is_picked_by_its_extension() -> None:
    images = [
        {"filename": "mask.webp", "type": "base64", "data": "AA=="},
        {"filename": "out_00001_.png", "type": "s3_url", "data": "https://files.example.com/out.png"},
    ]
    report = read_report(body("COMPLETED", output={"images": images}), "png")
    assert isinstance(report, OutputReturned)
    assert (report.filename, report.is_url) == ("out_00001_.png", True)


@pytest.mark.parametrize(
    "output", [None, {}, {"outputs": []}, {"images": []}, "done", {"images": [{"filename": "a.txt"}]}]
)
def test_completed_without_a_file_does_not_mean_delivered(output: Any) -> None:
    report = read_report(body("COMPLETED", output=output), "mp4")
    assert isinstance(report, JobLost)
    assert report.code == "output_missing"


@pytest.mark.parametrize("status", ["TIMED_OUT", "CANCELLED"])
def test_an_end_without_an_outcome_proves_nothing(status: str) -> None:
    assert isinstance(read_report(body(status), "mp4"), JobLost)


@pytest.mark.parametrize("where", ["error", "output", "output.error"])
def test_our_workers_error_is_found_in_every_place(where: str) -> None:
    error = json.dumps({"code": "bad_image", "detail": "no picture", "user_fault": True})
    places: dict[str, dict[str, Any]] = {
        "error": {"error": error},
        "output": {"output": error},
        "output.error": {"output": {"error": error}},
    }
    report = read_report(body("FAILED", **places[where]), "mp4")
    assert report == JobFailed(job_id="job-1", code="invalid_input", detail="no picture", user_fault=True)


def test_operators_read_the_workers_words_for_operators_without_addresses_and_keys() -> None:
    words = "VAELoader: GET https://store/x?sig=1 with Bearer abc.def and api_key=xyz sk-123456789 failed"
    error = json.dumps({"code": "execution_failed", "detail": "It failed.", "operator_detail": words})
    report = read_report(body("FAILED", error=error), "mp4")
    assert isinstance(report, JobFailed)
    assert report.detail == "VAELoader: GET <address> with <key> and <key> <key> failed"


def test_a_known_code_is_kept_and_an_unknown_one_means_that_execution_failed() -> None:
    for code, expected in (("execution_timeout", "execution_timeout"), ("oom", "execution_failed")):
        report = read_report(body("FAILED", error=json.dumps({"code": code, "detail": "d"})), "mp4")
        assert isinstance(report, JobFailed)
        assert report.code == expected
        assert not report.user_fault


def test_an_exception_in_the_sdk_is_reported_without_its_traceback() -> None:
    error = json.dumps({"error_type": "<class 'ValueError'>", "error_message": "boom", "error_traceback": "File …"})
    report = read_report(body("FAILED", error=error), "mp4")
    assert isinstance(report, JobFailed)
    assert report.detail == "<class 'ValueError'>: boom"


def test_a_failure_whose_reason_is_an_object_keeps_it_as_json() -> None:
    report = read_report(body("FAILED", output={"traceback": ["line 1"]}), "mp4")
    assert isinstance(report, JobFailed)
    assert report.detail == '{"traceback":["line 1"]}'


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
def test_a_failure_with_an_unreadable_reason_is_a_failure(error: bytes) -> None:
    report = read_report(b'{"status": "FAILED", "error": ' + error + b"}", "mp4")
    assert isinstance(report, JobFailed)
    assert not report.user_fault


def test_a_file_whose_name_cannot_be_read_is_no_output() -> None:
    image = b'{"filename": "\xff.png", "type": "base64", "data": "aa"}'
    report = read_report(b'{"status": "COMPLETED", "output": {"images": [' + image + b"]}}", "png")
    assert isinstance(report, JobLost)
