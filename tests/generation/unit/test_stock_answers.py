"""Files and errors in the answers of the stock worker."""

import json

from generation.domain.provider_reports import JobFailed, read_report
from generation.domain.stock_answers import find_error, find_file


def test_words_that_are_no_base64_are_no_file() -> None:
    assert find_file("The prompt was executed; see the log!", "mp4") is None


def test_the_message_of_an_answer_with_the_status_error_is_its_error() -> None:
    assert find_error({"status": "error", "message": "no node loads the model"}) == "no node loads the model"
    assert find_error({"status": "success", "message": "all is well"}) == ""


def test_details_that_stay_in_the_output_are_added_to_the_error() -> None:
    job = {"id": "job-1", "status": "FAILED", "error": "Workflow failed", "output": {"details": ["node 3: no file"]}}
    report = read_report(json.dumps(job).encode(), "mp4")
    assert isinstance(report, JobFailed)
    assert report.detail == 'Workflow failed; ["node 3: no file"]'
