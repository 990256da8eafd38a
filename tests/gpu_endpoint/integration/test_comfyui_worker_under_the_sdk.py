"""The worker with the ComfyUI renderer under RunPod's real SDK, against the emulator and a stand-in for ComfyUI."""

import base64
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gpu_endpoint.worker import (
    GPU_ENDPOINT,
    PYTHON,
    BucketHarness,
    WorkerHarness,
    needs_environment,
    running_bucket,
    running_worker,
)
from tests.local_platform.runpod import RunPodHarness, client_of, emulator_process
from tests.support.waiting import eventually

pytestmark = needs_environment

STAND_IN = GPU_ENDPOINT / "tests/comfyui/standin"
WORKFLOW = GPU_ENDPOINT.parent / "libs/catalogue/src/catalogue/models/wan-2.2-t2v/workflow.json"


@pytest.fixture(scope="module")
def emulator_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with emulator_process(tmp_path_factory.mktemp("emulator"), "--worker-poll-seconds", "1") as url:
        yield url


@pytest.fixture(scope="module")
def worker(emulator_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerHarness]:
    environment = {
        "RENDERER": "comfyui",
        "COMFYUI_DIRECTORY": str(STAND_IN),
        "COMFYUI_PYTHON": str(PYTHON),
        "COMFYUI_ARGUMENTS": "--standin-step-seconds 0.4 --standin-save-seconds 0.2",
    }
    with running_worker(emulator_url, tmp_path_factory.mktemp("worker"), **environment) as worker:
        yield worker


@pytest.fixture
async def runpod(emulator_url: str, worker: WorkerHarness) -> AsyncIterator[RunPodHarness]:
    async with client_of(emulator_url) as runpod:
        yield runpod
        await eventually(lambda: not files_of_jobs(worker), what="an empty disk")


@pytest.fixture
async def bucket(tmp_path: Path) -> AsyncIterator[BucketHarness]:
    async with running_bucket(tmp_path) as bucket:
        yield bucket


def files_of_jobs(worker: WorkerHarness) -> list[str]:
    """All but the stand-in's own notes, which are no job's."""
    return [name for name in worker.files() if "/user/" not in name]


def clip(bucket: BucketHarness, key: str, prompt: str, steps: int) -> dict[str, Any]:
    """An order of the catalogue's own workflow."""
    workflow = json.loads(WORKFLOW.read_text())
    workflow["7"]["inputs"]["text"] = prompt
    for node in workflow.values():
        if "noise_seed" in node["inputs"]:
            node["inputs"] |= {"steps": steps}
            half = "end_at_step" if node["inputs"]["start_at_step"] == 0 else "start_at_step"
            node["inputs"][half] = steps // 2
    return bucket.job(key, prompt=prompt, steps=steps) | {
        "workflow": workflow,
        "output": bucket.job(f"{key}.mp4")["output"],
    }


async def test_clip_comes_with_steps_and_previews_and_leaves_no_words(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    prompt = "a harbour that only its owner sees"
    body = await runpod.ended(await runpod.run(clip(bucket, "clip", prompt, steps=8)), "COMPLETED", timeout=60)
    [output] = body["output"]["outputs"]
    assert bucket.uploads["clip.mp4"]["sha256"] == output["sha256"]
    report = body["output"]["report"]
    assert (report["renderer"], report["runs"], report["comfyui_version"]) == ("comfyui", 1, "0.33.0")
    percents = [post["percent"] for post in bucket.progress]
    assert percents == sorted(percents)
    assert {post.get("node") for post in bucket.progress} & {"High noise steps", "Low noise steps"}
    assert {post["steps"] for post in bucket.progress if post["step"]} == {8}
    [preview, *_] = [base64.b64decode(post["preview"]) for post in bucket.progress if "preview" in post]
    assert preview.startswith(b"\xff\xd8\xff")
    assert prompt not in worker.log()
    assert prompt.encode() not in (bucket.directory / "clip.mp4").read_bytes()


async def test_cancelled_clip_is_not_uploaded_and_the_next_one_is(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    job_id = await runpod.run(clip(bucket, "cancelled", "a tiger", steps=400))
    await eventually(lambda: any(post["step"] for post in bucket.progress), timeout=60, what="the sampler")
    await runpod.call("POST", f"cancel/{job_id}")
    await eventually(lambda: worker.stopped(job_id), timeout=10, what="the end of the job")
    await eventually(lambda: not files_of_jobs(worker), what="an empty disk")
    await runpod.ended(await runpod.run(clip(bucket, "next", "a lion", steps=2)), "COMPLETED", timeout=60)
    assert bucket.uploads.keys() == {"next.mp4"}


async def test_clip_past_its_execution_time_is_stopped_and_the_next_one_is_made(
    runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness
) -> None:
    await runpod.settings(time_scale=10)
    job = clip(bucket, "late", "a tiger", steps=400)
    job_id = await runpod.run(job, policy={"executionTimeout": 10_000})
    await runpod.ended(job_id, "TIMED_OUT", timeout=60)
    await eventually(lambda: worker.stopped(job_id) and not files_of_jobs(worker), timeout=10, what="the stop")
    await runpod.settings(time_scale=1)
    await runpod.ended(await runpod.run(clip(bucket, "after", "a lion", steps=2)), "COMPLETED", timeout=60)
    assert bucket.uploads.keys() == {"after.mp4"}


async def test_failure_says_a_sentence_to_customers_and_the_node_to_operators(
    runpod: RunPodHarness, bucket: BucketHarness
) -> None:
    job = clip(bucket, "broken", "a tiger", steps=2)
    job["workflow"]["2"]["inputs"]["vae_name"] = "missing.safetensors"
    error = json.loads((await runpod.ended(await runpod.run(job), "FAILED", timeout=60))["error"])
    assert (error["code"], error["user_fault"]) == ("worker_misconfigured", False)
    assert error["detail"] == "The work failed on our side."
    assert "VAELoader “VAE” (node 2)" in error["operator_detail"]


def test_worker_whose_comfyui_does_not_start_ends_with_the_reason(tmp_path: Path) -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "RENDERER": "comfyui",
        "COMFYUI_DIRECTORY": str(STAND_IN),
        "COMFYUI_PYTHON": str(PYTHON),
        "COMFYUI_ARGUMENTS": "--standin-broken-boots 1",
        "COMFYUI_WORK_DIRECTORY": str(tmp_path / "work"),
    }
    ended = subprocess.run(
        [PYTHON, "-m", "gpu_endpoint"], env=environment, cwd=GPU_ENDPOINT, capture_output=True, text=True, timeout=30
    )
    assert ended.returncode == 1
    assert "this boot is broken" in ended.stderr
