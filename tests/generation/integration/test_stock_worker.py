"""The stock ``worker-comfyui`` on both sides: what it is sent, and every form of its answers, through the emulator.

``docs/stock-worker.md`` has the table of what happens.
"""

import base64
import textwrap
from datetime import timedelta
from typing import Any

import httpx

from contracts.generation import FAILURE_SENTENCES, AttemptFailed, GenerationCompleted, GenerationFailed
from tests.generation.harness import order
from tests.generation.service_harness import ServiceHarness
from tests.generation.worker import Work, Worker

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(255)) * 3
BASE64 = base64.b64encode(PNG).decode()
assert BASE64.endswith("=")
STOCK = {"endpoints": {"image": {"id": "video-ep", "worker": "stock"}, "video": {"id": "unused"}}}


def picture(data: str = BASE64, **changes: Any) -> dict[str, Any]:
    return {"filename": "reelhouse_00001_.png", "type": "base64", "data": data} | changes


MASK = picture(base64.b64encode(JPEG).decode(), filename="mask_00001_.jpg")
NO_NAME = {"type": "base64", "data": BASE64}

DELIVERED: dict[str, tuple[dict[str, Any], bytes]] = {
    "base64": ({"output": {"images": [picture()]}}, PNG),
    "a data URI": ({"output": {"images": [picture(f"data:image/png;base64,{BASE64}")]}}, PNG),
    "line breaks": ({"output": {"images": [picture(textwrap.fill(BASE64, 76) + "\r\n")]}}, PNG),
    "no padding": ({"output": {"images": [picture(BASE64.rstrip("="))]}}, PNG),
    "the alphabet of addresses": ({"output": {"images": [picture(base64.urlsafe_b64encode(PNG).decode())]}}, PNG),
    "several pictures": ({"output": {"images": [MASK, picture()]}}, PNG),
    "a JPEG": ({"output": {"images": [MASK]}}, JPEG),
    "a JPEG called PNG": ({"output": {"images": [picture(base64.b64encode(JPEG).decode())]}}, JPEG),
    "no file name": ({"output": {"images": [NO_NAME]}}, PNG),
    "text instead of objects": ({"output": {"images": [BASE64]}}, PNG),
    "a list": ({"output": [picture()]}, PNG),
    "a list of texts": ({"output": [BASE64]}, PNG),
    "the message of old versions": ({"output": {"status": "success", "message": BASE64}}, PNG),
    "errors beside the picture": ({"output": {"images": [picture()], "errors": ["Node 9: skipped"]}}, PNG),
}


def answering(body: dict[str, Any]) -> Work:
    async def answer(worker: Worker, job: dict[str, Any]) -> dict[str, Any] | None:
        return body

    return answer


async def stored_bytes(service: ServiceHarness, generation_id: object) -> bytes:
    """What lies where our own worker would have put the file."""
    url = service.peers.storage._urls.get("incoming", f"{generation_id}/1/output.png", timedelta(minutes=1))
    answer: httpx.Response = await service.peers.storage.http.get(url)
    answer.raise_for_status()
    return answer.content


async def test_where_a_person_would_say_the_picture_is_there_it_is_delivered(service: ServiceHarness) -> None:
    async with service.replica(**STOCK):
        for form, (body, expected) in DELIVERED.items():
            service.worker.work = answering(body)
            one = order("flux-schnell")
            await service.peers.fund(one)
            await service.peers.until(one, GenerationCompleted)
            assert await service.peers.attempts(one) == ["succeeded"], form
            assert await stored_bytes(service, one.generation_id) == expected, form


UNREADABLE = "Workflow execution error: Node Type: LoadImage, Node ID: 14, Message: cannot identify image file '/x.png'"
USER_FAULTS: dict[str, dict[str, Any]] = {
    "FAILED, in its error": {"error": UNREADABLE},
    "FAILED, in its output": {"output": {"error": UNREADABLE}},
    "FAILED, with details": {"error": "Job processing failed", "output": {"details": [UNREADABLE]}},
    "cut off": {"error": "Node Type: LoadImage, Message: image file is truncated (3 bytes not processed)"},
    "COMPLETED, with errors and no picture": {"output": {"images": [], "errors": [UNREADABLE]}},
    "COMPLETED, in the message of old versions": {"output": {"status": "error", "message": UNREADABLE}},
}


async def test_the_users_fault_is_told_at_once_and_not_after_three_tries(service: ServiceHarness) -> None:
    async with service.replica(**STOCK):
        for form, body in USER_FAULTS.items():
            service.worker.work = answering(body)
            one = order("flux-schnell")
            await service.peers.fund(one)
            failed = await service.peers.until(one, GenerationFailed)
            assert (failed.code, failed.detail) == ("invalid_input", FAILURE_SENTENCES["invalid_input"]), form
            assert await service.peers.attempts(one) == ["failed"], form


async def test_another_error_is_the_workers_and_is_tried_again(service: ServiceHarness) -> None:
    service.worker.work = answering({"error": "ComfyUI server (127.0.0.1:8188) not reachable after 500 retries"})
    one = order("flux-schnell")
    async with service.replica(**STOCK):
        await service.peers.fund(one)
        retried = await service.peers.until(one, AttemptFailed)
        service.worker.work = answering(DELIVERED["base64"][0])
        await service.peers.until(one, GenerationCompleted)
    assert retried.code == "execution_failed"


async def test_the_worker_is_sent_the_workflow_and_nothing_that_it_does_not_know(service: ServiceHarness) -> None:
    service.worker.work = answering(DELIVERED["base64"][0])
    one = order("flux-schnell")
    async with service.replica(**STOCK):
        await service.peers.fund(one)
        await service.peers.until(one, GenerationCompleted)
    [job] = service.worker.taken
    assert job["input"].keys() == {"workflow", "images"}
    assert job["input"]["images"] == []
    assert {node["class_type"] for node in job["input"]["workflow"].values()} >= {"KSampler", "SaveImage"}
