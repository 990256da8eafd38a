"""What a worker says of itself."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpu_endpoint import machine
from gpu_endpoint.failures import OutOfMemory
from gpu_endpoint.handler import JobHandler
from gpu_endpoint.job import RenderJob
from gpu_endpoint.machine import Machine, process_seconds
from gpu_endpoint.progress import ReportProgress
from gpu_endpoint.renderers.renderer import RenderedFile

JOB: dict[str, Any] = {
    "schema": 1,
    "generation_id": "g",
    "attempt_id": "a",
    "attempt_number": 1,
    "kind": "image",
    "model_id": "m",
    "parameters": {},
    "output": {"object_key": "k", "put_url": "https://x", "content_type": "image/png", "max_size_bytes": 1},
}


class Failing:
    """A renderer that runs out of memory."""

    name = "failing"

    async def open(self) -> None: ...

    async def render(
        self, job: RenderJob, images: Sequence[Path], directory: Path, report_progress: ReportProgress
    ) -> RenderedFile:
        raise OutOfMemory("no more", {"runs": 2})


def test_runpods_name_of_the_gpu_is_decoded() -> None:
    known = Machine.started_now({"RUNPOD_GPU_NAME": "NVIDIA+A40", "RUNPOD_POD_ID": "pod-1"}).job_facts()
    assert (known["gpu"], known["worker_id"]) == ("NVIDIA A40", "pod-1")


@pytest.mark.parametrize(
    ("script", "expected"),
    [("echo NVIDIA L4; echo NVIDIA L4", {"gpu": "NVIDIA L4"}), ("exit 9", {}), ("echo", {})],
)
def test_without_it_the_driver_is_asked(
    script: str, expected: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    facts = Machine.started_now({}).job_facts()
    assert {name: value for name, value in facts.items() if name == "gpu"} == expected


def test_only_the_first_job_of_a_worker_waited_for_its_start() -> None:
    worker = Machine("NVIDIA L4", None, 12.3456)
    assert worker.job_facts() == {"gpu": "NVIDIA L4", "cold_start_seconds": 12.346}
    assert worker.job_facts() == {"gpu": "NVIDIA L4", "cold_start_seconds": 0.0}


def test_the_age_of_the_process_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert 0 < process_seconds() < 86_400
    monkeypatch.setattr(machine, "_STAT", tmp_path / "none")
    assert process_seconds() > 0


async def test_a_failure_says_the_machine_too() -> None:
    handler = JobHandler(Failing(), Machine("NVIDIA L4", "pod-1", 3.0))
    error = json.loads((await handler.handle({"id": "job", "input": JOB}))["error"])
    assert error["report"] == {"gpu": "NVIDIA L4", "worker_id": "pod-1", "cold_start_seconds": 3.0, "runs": 2}


async def test_a_keep_alive_is_answered_without_rendering() -> None:
    handler = JobHandler(Failing(), Machine(None, None, 3.0))
    assert await handler.handle({"id": "job", "input": {"keep_alive": True}}) == {"keep_alive": True}
