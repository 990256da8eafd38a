"""Reading what the provider reports."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.generation import FAILURE_SENTENCES
from generation.domain.gpu_use import GpuUse
from generation.domain.provider_reports import (
    FAILURE_CODES,
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
    assert (reported.report, reported.use.execution_ms) == (None, None)


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
        report={"renderer": "preview"},
        use=GpuUse(queue_ms=12, execution_ms=1500),
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
    assert report == JobFailed(
        job_id="job-1", code="invalid_input", detail="no picture", user_fault=True, use=GpuUse(queue_ms=12)
    )


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


def test_the_details_that_the_sdk_left_in_the_output_follow_the_reason_once() -> None:
    # worker-comfyui gives ``error`` and ``details`` together; RunPod's SDK moves ``error`` alone.
    output = {"details": ["node 12: cannot identify image file"]}
    report = read_report(body("FAILED", error="Workflow validation failed", output=output), "mp4")
    assert isinstance(report, JobFailed)
    assert report.detail == 'Workflow validation failed; ["node 12: cannot identify image file"]'
    assert (report.code, report.user_fault) == ("invalid_input", True)
    repeated = read_report(body("FAILED", error="no such node", output={"error": "no such node"}), "mp4")
    assert isinstance(repeated, JobFailed)
    assert repeated.detail == "no such node"


@pytest.mark.parametrize("more", [{}, {"error": "", "output": {}}, {"error": None, "output": []}])
def test_a_failure_without_a_reason_says_so(more: dict[str, Any]) -> None:
    report = read_report(body("FAILED", **more), "mp4")
    assert isinstance(report, JobFailed)
    assert (report.code, report.detail) == ("execution_failed", "the worker gave no reason")
    assert not report.user_fault


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


def test_a_file_is_found_although_its_name_cannot_be_read() -> None:
    image = b'{"filename": "\xff.png", "type": "base64", "data": "aa"}'
    report = read_report(b'{"status": "COMPLETED", "output": {"images": [' + image + b"]}}", "png")
    assert isinstance(report, OutputReturned)
    assert (report.filename, report.data) == ("\N{REPLACEMENT CHARACTER}.png", "aa")


ODD_VALUES = [
    *(b"null", b"true", b"-1", b"1e400", b"NaN", b"1" * 400, b'""', b'"7"'),
    *(b'"a\\nb"', b'"\\u0000"', b'"\\ud800"', b'"\xff"'),
    *(b"[]", b"{}", b'{"a": "\\udfff"}', b'"' + b"x" * 5000 + b'"', b"[" * 200 + b"]" * 200),
]
"""Values that a provider or a worker may give where another one is due."""


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: repr(value[:12]))
@pytest.mark.parametrize("field", ["id", "delayTime", "executionTime", "workerId", "error", "webhook", "input"])
@pytest.mark.parametrize("status", ["IN_PROGRESS", "COMPLETED"])
def test_an_odd_value_takes_no_other_field_with_it(status: str, field: str, value: bytes) -> None:
    good = {
        "id": b'"job-1"',
        "status": b'"' + status.encode() + b'"',
        "delayTime": b"12",
        "executionTime": b"1500",
        "workerId": b'"worker-1"',
        "output": b'{"outputs": [{"size_bytes": 10}], "report": {"gpu": "NVIDIA L4", "cold_start_seconds": 2.5}}',
    }
    fields = {**good, field: value}
    report = read_report(
        b"{" + b", ".join(b'"%s": %s' % (name.encode(), v) for name, v in fields.items()) + b"}", "mp4"
    )
    assert type(report) is (OutputUploaded if status == "COMPLETED" else JobRunning)
    assert field == "id" or report.job_id == "job-1"
    assert field == "delayTime" or report.use.queue_ms == 12
    assert field == "executionTime" or report.use.execution_ms == 1500
    assert field == "workerId" or report.use.worker_id == "worker-1"
    if isinstance(report, OutputUploaded):
        assert (report.use.gpu_type, report.use.cold_start_ms) == ("NVIDIA L4", 2500)
    # Whatever was taken over can be stored and sent.
    assert b"\\u0000" not in msgspec.json.encode(report)


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: repr(value[:12]))
@pytest.mark.parametrize("field", ["detail", "operator_detail", "user_fault", "report", "error_message"])
def test_an_odd_word_of_a_worker_takes_no_other_with_it(field: str, value: bytes) -> None:
    told = {"code": b'"out_of_memory"', "operator_detail": b'"VAEDecode"', "report": b'{"gpu": "NVIDIA L4"}'}
    error = b"{" + b", ".join(b'"%s": %s' % (name.encode(), v) for name, v in {**told, field: value}.items()) + b"}"
    raw = json.dumps({"error": error.decode(errors="replace")})[1:-1].encode()
    report = read_report(b'{"id": "job-1", "status": "FAILED", "executionTime": "1500", ' + raw + b"}", "mp4")
    assert isinstance(report, JobFailed)
    assert report.use.execution_ms == 1500
    assert report.code == ("invalid_input" if (field, value) == ("user_fault", b"true") else "out_of_memory")
    assert field == "operator_detail" or report.detail == "VAEDecode"
    assert field == "report" or report.use.gpu_type == "NVIDIA L4"
    assert b"\\u0000" not in msgspec.json.encode(report)


@pytest.mark.parametrize(
    ("job_id", "expected"), [(b"17", "17"), (b'"a job\\n"', None), (b"1.5", None), (b"true", None)]
)
def test_an_id_that_is_no_word_does_not_hide_the_outcome(job_id: bytes, expected: str | None) -> None:
    report = read_report(b'{"status": "COMPLETED", "id": ' + job_id + b"}", "mp4")
    assert isinstance(report, JobLost)
    assert (report.code, report.job_id) == ("output_missing", expected)


def test_no_worker_makes_an_attempt_cost_more_than_a_month() -> None:
    report = read_report(body("IN_PROGRESS", executionTime=10**15, delayTime=10**15), "mp4")
    assert (report.use.execution_ms, report.use.queue_ms) == (None, None)


def test_every_code_of_our_own_worker_is_one_of_ours() -> None:
    source = (Path(__file__).parents[3] / "gpu-endpoint/src/gpu_endpoint/failures.py").read_text()
    codes = set(re.findall(r'^    code(?:: ClassVar\[str\])? = "([a-z_]+)"', source, re.MULTILINE))
    assert {"out_of_memory", "worker_misconfigured", "worker_unavailable"} <= codes <= FAILURE_CODES
    assert set(FAILURE_SENTENCES) == FAILURE_CODES


WORDS = [
    ("GET https://bucket.example.com/k?X-Amz-Signature=abcdef failed", "bucket.example.com", "abcdef"),
    ("Authorization: Bearer abc.def.ghi and password=hunter2 refused", "abc.def", "hunter2"),
    ("key rpa_ABCDEFGHIJKL of someone@example.com at 10.0.0.7:8188", "rpa_ABC", "someone@", "10.0.0.7"),
    ('File "/x.py", line 3, token: eyJhbGciOi.eyJzdWIiOi.sig', "eyJhbGci"),
]


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words[0][:20])
@pytest.mark.parametrize("where", ["error", "operator_detail", "output", "message"])
def test_operators_read_no_address_and_no_key(where: str, words: tuple[str, ...]) -> None:
    said: dict[str, dict[str, Any]] = {
        "error": {"error": words[0]},
        "operator_detail": {"error": json.dumps({"code": "execution_failed", "operator_detail": words[0]})},
        "output": {"output": {"error": {"traceback": [words[0]]}}},
        "message": {"output": {"status": "error", "message": words[0]}},
    }
    report = read_report(body("FAILED", **said[where]), "mp4")
    assert isinstance(report, JobFailed)
    assert not any(secret in report.detail for secret in words[1:])


def test_a_worker_that_says_20_megabytes_is_read_in_no_time() -> None:
    report = read_report(body("FAILED", error="a.b-" * 5_000_000), "mp4")
    assert isinstance(report, JobFailed)
    assert len(report.detail) <= 4000
