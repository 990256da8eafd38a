"""What the stock worker is sent of a user's pictures, and what its answers mean one by one."""

import base64
import json
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from catalogue import load_catalogue
from generation.domain.provider_reports import JobFailed, JobLost, OutputReturned, read_report
from generation.domain.stock_answers import normal_base64
from generation.repository.fair_queue import ClaimedOrder
from generation.runpod.answers import ProviderRefused, ProviderRejected
from generation.runpod.job import StockInput
from generation.stock_inputs import MAX_PICTURE_BYTES, StockInputs
from service_runtime.presigned_urls import PresignedUrls

PNG = b"\x89PNG\r\n\x1a\n" + bytes(99)
MODEL = load_catalogue().model("wan-2.2-i2v")


async def built(answer: httpx.Response) -> StockInput:
    """The input of an order with one picture, whose bucket gives this answer."""
    http = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer))
    urls = PresignedUrls("https://bucket.example.com", "auto", "key", "secret")
    return await StockInputs({"video"}, http, urls, "uploads").build(claimed(), MODEL)


def claimed() -> ClaimedOrder:
    return ClaimedOrder(
        generation_id=uuid4(),
        user_id=uuid4(),
        attempt_id=uuid4(),
        attempt_number=1,
        fence_token=1,
        endpoint="video",
        lane="standard",
        waited_seconds=0,
        endpoint_id="video-ep",
        probe=False,
        kind="video",
        model_id=MODEL.id,
        parameters=MODEL.complete({"prompt": "sea", "image": str(UUID(int=1))}),
        input_object_keys={"image": "user/upload"},
        output_extension="mp4",
        max_size_bytes=1000,
        execution_timeout_seconds=60,
        traceparent=None,
    )


async def test_a_picture_travels_inside_the_job_under_the_name_that_the_workflow_knows() -> None:
    job = await built(httpx.Response(200, content=PNG))
    [image] = job.images
    assert (image.name, base64.b64decode(image.image)) == ("image.png", PNG)
    assert image.name in [node["inputs"].get("image") for node in job.workflow.values()]


async def test_too_large_pictures_are_rejected_and_a_silent_bucket_is_waited_for() -> None:
    with pytest.raises(ProviderRejected):
        await built(httpx.Response(200, content=bytes(MAX_PICTURE_BYTES + 1)))
    with pytest.raises(ProviderRefused):
        await built(httpx.Response(503))


def read(output: Any, extension: str = "png", **more: Any) -> Any:
    job = {"id": "job-1", "status": "COMPLETED", "output": output, **more}
    return read_report(json.dumps(job).encode(), extension)


def test_an_address_is_a_file_also_without_a_type_or_a_name() -> None:
    for output in (
        {"images": [{"filename": "a.png", "type": "s3_url", "data": "https://files.example.com/a?sig=1"}]},
        {"images": [{"data": "https://files.example.com/a.png?sig=1"}]},
        {"message": "https://files.example.com/a"},
        ["https://files.example.com/a.png"],
    ):
        report = read(output)
        assert isinstance(report, OutputReturned), output
        assert (report.is_url, report.data.startswith("https://files.example.com/a")) == (True, True)


def test_a_clip_is_found_among_pictures_and_a_picture_is_no_clip() -> None:
    clip = {"filename": "clip_00001_.mp4", "type": "base64", "data": "AAAA"}
    still = {"filename": "still.png", "type": "base64", "data": "AAAA"}
    for name in ("images", "videos", "gifs"):
        report = read({name: [still, clip]}, "mp4")
        assert isinstance(report, OutputReturned)
        assert report.filename == "clip_00001_.mp4"
    assert isinstance(read({"images": [still]}, "mp4"), JobLost)


@pytest.mark.parametrize("words", ["done", "success", "all good", "", "ABCD" * 100, "https:", "data:,"])
def test_words_are_no_file(words: str) -> None:
    assert isinstance(read({"status": "success", "message": words}), JobLost)


def test_an_error_beside_completed_is_a_failure_unless_the_picture_is_there() -> None:
    image = {"filename": "a.png", "type": "base64", "data": base64.b64encode(PNG).decode()}
    broken = "Node Type: LoadImage, Message: cannot identify image file"
    forms: tuple[tuple[Any, dict[str, Any]], ...] = (
        ({"error": broken}, {}),
        (None, {"error": broken}),
        ({"images": []}, {"error": broken}),
    )
    for output, more in forms:
        report = read(output, **more)
        assert isinstance(report, JobFailed)
        assert (report.code, report.user_fault) == ("invalid_input", True)
    assert read({"error": "CUDA error"}) == JobFailed(
        job_id="job-1", code="execution_failed", detail="CUDA error", user_fault=False
    )
    assert isinstance(read({"images": [image], "error": "Node 9 failed"}), OutputReturned)


def test_an_impossible_address_is_not_fatal() -> None:
    assert isinstance(read({"message": "https://[files/a.png"}), OutputReturned)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 76, 77])
def test_base64_is_read_in_every_form(length: int) -> None:
    content = bytes(range(255, 255 - length, -1))
    plain = base64.b64encode(content).decode()
    safe = base64.urlsafe_b64encode(content).decode()
    for form in (plain, plain.rstrip("="), safe, safe.rstrip("="), f"data:image/png;base64,{plain}", f" {plain}\r\n"):
        assert base64.b64decode(normal_base64(form), validate=True) == content
