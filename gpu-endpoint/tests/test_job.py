"""Reading jobs: what is promised is demanded, and the reason names the field without repeating its value."""

from collections.abc import Callable
from typing import Any

import pytest

from gpu_endpoint.failures import InvalidInput, MalformedJob
from gpu_endpoint.job import parse_job
from gpu_endpoint.renderers.preview.parameters import parse_parameters

JobInput = Callable[..., dict[str, Any]]


def test_unknown_fields_are_ignored(job_input: JobInput) -> None:
    assert parse_job(job_input() | {"new": 1}).generation_id == "g"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schema": 2}, "schema 2"),
        ({"kind": "song"}, "$.kind"),
        ({"output": {}}, "$.output"),
        ({"images": [{"name": "../../etc/passwd", "url": "http://x/"}]}, "$.images[0].name"),
        ({"images": [{"name": "a.png", "url": "file:///etc/passwd"}]}, "$.images[0].url"),
        ({"progress_url": "secret://value"}, "$.progress_url"),
    ],
)
def test_a_job_that_breaks_the_contract_is_malformed(job_input: JobInput, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(MalformedJob) as caught:
        parse_job(job_input() | changes)
    assert named in caught.value.detail
    assert "secret" not in caught.value.detail


@pytest.mark.parametrize("job", [None, [], "text", {}])
def test_what_is_no_job_at_all_is_malformed(job: object) -> None:
    with pytest.raises(MalformedJob):
        parse_job(job)


@pytest.mark.parametrize(
    "parameters",
    [
        {"width": 0},
        {"width": 5000},
        {"width": 129},
        {"height": "tall"},
        {"prompt": None},
        {"duration_seconds": 0},
        {"frames_per_second": 1000},
        {"duration_seconds": 600, "frames_per_second": 120},
    ],
)
def test_parameters_that_cannot_be_drawn_are_the_users_fault(make_job: Callable[..., Any], parameters: Any) -> None:
    with pytest.raises(InvalidInput):
        parse_parameters(make_job(**parameters))


def test_a_picture_needs_no_duration_and_may_have_odd_sides(make_job: Callable[..., Any]) -> None:
    parameters = parse_parameters(make_job("image", width=129, height=97))
    assert (parameters.frames, parameters.width, parameters.height) == (1, 129, 97)
