"""What our worker adds to ComfyUI's own times, what memory it takes, and how soon it is free after a cancel.

    python -m benchmarks.worker [--jobs 10]

The whole worker runs under RunPod's own SDK, with jobs from the emulator: on the stand-in for ComfyUI, and where the
environment's ``COMFYUI`` names a checkout (``COMFYUI_PYTHON`` its Python), on a real one with tiny weights, too. The
peer of every figure is ComfyUI itself: its own execution time, its own start. Ends with code 1 if a limit is missed.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from catalogue import load_catalogue
from local_platform.console import say, table
from tests.comfyui_real.tiny_comfyui import chosen_device, tiny_comfyui
from tests.gpu_endpoint.worker import (
    GPU_ENDPOINT,
    PYTHON,
    BucketHarness,
    WorkerHarness,
    running_bucket,
    running_worker,
)
from tests.local_platform.runpod import RunPodHarness, client_of, emulator_process
from tests.support.waiting import eventually

LIMIT_OWN_SECONDS = 0.3
LIMIT_MEMORY_MB = 150.0
LIMIT_GROWTH_MB = 24.0
LIMIT_FREE_SECONDS = 5.0
LARGE_BYTES = 2**30
CANCELS = 3
STAND_IN = {
    "RENDERER": "comfyui",
    "COMFYUI_DIRECTORY": str(GPU_ENDPOINT / "tests/comfyui/standin"),
    "COMFYUI_PYTHON": str(PYTHON),
    "COMFYUI_ARGUMENTS": "--standin-step-seconds 0.2",
}

Graph = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measurement. ``limit`` is None for what only explains another one."""

    name: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def missed(self) -> bool:
        """Whether it is over its limit."""
        return self.limit is not None and self.value > self.limit

    def row(self) -> tuple[str, ...]:
        """As a table shows it."""
        shown = f"{self.value:.3f}" if self.unit == "s" else f"{self.value:.0f}"
        if self.limit is None:
            return (self.name, f"{shown} {self.unit}", "", "", "")
        share = f"{self.value / self.limit:.2f}"
        return (
            self.name,
            f"{shown} {self.unit}",
            f"{self.limit:.3g} {self.unit}",
            share,
            "MISSED" if self.missed else "",
        )


class Subject:
    """A worker, the emulator that gives it jobs, and the bucket that takes its files."""

    def __init__(self, runpod: RunPodHarness, bucket: BucketHarness, worker: WorkerHarness) -> None:
        self._runpod = runpod
        self._bucket = bucket
        self._worker = worker

    async def job(self, workflow: Graph | None = None) -> str:
        """Order that workflow, or a small clip; its id."""
        key = f"{uuid4()}.mp4"
        job = self._bucket.job(key)
        job["attempt_id"] = str(uuid4())
        job["workflow"] = workflow or clip(steps=4)
        job["output"]["max_size_bytes"] = 2 * LARGE_BYTES
        return await self._runpod.run(job)

    async def report(self, job_id: str) -> dict[str, Any]:
        """The report of a job, once it is done."""
        body = await self._runpod.ended(job_id, "COMPLETED", timeout=180)
        report: dict[str, Any] = body["output"]["report"]
        return report

    async def begun(self, job_id: str, stepped: bool = False) -> None:
        """Return when a node of the job runs; with ``stepped`` when a sampler has made a step."""

        def seen() -> bool:
            posts = [post for post in self._bucket.progress if post["job_id"] == job_id]
            return any(post["step"] for post in posts) if stepped else bool(posts)

        await eventually(seen, 120, "the job's first node")

    async def free_again(self, workflow: Graph, stepped: bool) -> float:
        """Seconds from the cancel of a running job until a node of the next one runs, which waits already."""
        running = await self.job(workflow)
        await self.begun(running, stepped)
        following = await self.job()
        began = time.monotonic()
        await self._runpod.call("POST", f"cancel/{running}")
        await self.begun(following)
        seconds = time.monotonic() - began
        await self.report(following)
        return seconds

    def memory_mb(self, kind: str) -> float:
        """Of the worker without its ComfyUI: ``VmRSS`` is what it has now, ``VmHWM`` the most since ``forget_peak``."""
        status = Path(f"/proc/{self._worker.process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith(kind)]
        return int(line.split()[1]) / 1024

    def forget_peak(self) -> None:
        """Count the most memory from now on."""
        Path(f"/proc/{self._worker.process.pid}/clear_refs").write_text("5")

    def boots(self) -> list[float]:
        """Seconds that each start of ComfyUI took."""
        lines = (json.loads(line) for line in self._worker.log().splitlines() if "comfyui_ready" in line)
        return [float(line["seconds"]) for line in lines]


def clip(steps: int) -> Graph:
    """The catalogue's own workflow for five frames, with so many steps and another seed each time."""
    model = load_catalogue().model("wan-2.2-t2v")
    graph = model.bind_workflow(model.complete({"prompt": "a lighthouse", "width": 256, "height": 256}))
    for node in graph.values():
        inputs = node["inputs"]
        if "length" in inputs:
            inputs["length"] = 5
        if "noise_seed" in inputs:
            inputs |= {"steps": steps, "noise_seed": uuid4().int % 2**32}
            inputs["end_at_step" if inputs["start_at_step"] == 0 else "start_at_step"] = steps // 2
    return graph


def trap(name: str, **inputs: Any) -> Graph:
    """One node, which the stand-in and the tiny weights' custom node share."""
    return {"1": {"class_type": "TrapOutput", "inputs": {"trap": name, **inputs}, "_meta": {"title": "Trap"}}}


async def measure(subject: Subject, jobs: int) -> list[Figure]:
    """Every figure, in an order in which none disturbs the next."""
    await subject.report(await subject.job())
    reports = [await subject.report(await subject.job()) for _ in range(jobs)]
    own = [report["input_seconds"] + report["render_seconds"] - report["comfyui_seconds"] for report in reports]
    memory = subject.memory_mb("VmHWM")
    before = subject.memory_mb("VmRSS")
    subject.forget_peak()
    large = await subject.report(await subject.job(trap("large", bytes=LARGE_BYTES)))
    growth = subject.memory_mb("VmHWM") - before
    free = [await subject.free_again(clip(steps=4000), stepped=True) for _ in range(CANCELS)]
    after_kill = await subject.free_again(trap("deaf"), stepped=False)
    first_boot, *_, boot = subject.boots()
    return [
        Figure(name="a job in ComfyUI itself, median", value=_median(reports, "comfyui_seconds"), unit="s"),
        Figure(name="prompt posted until its first node, median", value=_median(reports, "begin_seconds"), unit="s"),
        Figure(name="last node's end until it is noticed, median", value=_median(reports, "notice_seconds"), unit="s"),
        Figure(
            name="taken until uploading, less ComfyUI's own, median",
            value=statistics.median(own),
            unit="s",
            limit=LIMIT_OWN_SECONDS,
        ),
        Figure(name="the same, at the most", value=max(own), unit="s"),
        Figure(name="memory of the worker after these jobs, peak", value=memory, unit="MB", limit=LIMIT_MEMORY_MB),
        Figure(name="memory that 1 GiB of output adds, peak", value=max(0.0, growth), unit="MB", limit=LIMIT_GROWTH_MB),
        Figure(name="upload of 1 GiB", value=large["upload_seconds"], unit="s"),
        Figure(
            name="cancel in the sampler until the next job's first node, at the most",
            value=max(free),
            unit="s",
            limit=LIMIT_FREE_SECONDS,
        ),
        Figure(name="a start of ComfyUI", value=max(first_boot, boot), unit="s"),
        Figure(
            name="cancel of a deaf node until the next job's first node",
            value=after_kill,
            unit="s",
            limit=LIMIT_FREE_SECONDS + 1 + boot,
        ),
    ]


def _median(reports: list[dict[str, Any]], fact: str) -> float:
    return statistics.median(float(report[fact]) for report in reports)


async def run(environment: Mapping[str, str], jobs: int, directory: Path) -> list[Figure]:
    """Start, measure, stop."""
    with (
        emulator_process(directory, "--worker-poll-seconds", "1") as url,
        running_worker(url, directory, **environment) as worker,
    ):
        async with client_of(url) as runpod, running_bucket(directory) as bucket:
            return await measure(Subject(runpod, bucket, worker), jobs)


async def main(jobs: int) -> int:
    """Measure on both. The exit code."""
    missed = False
    with tempfile.TemporaryDirectory(prefix="reelhouse-bench-") as name:
        directory = Path(name)
        subjects = {"the stand-in": STAND_IN}
        if (real := tiny_comfyui(directory / "base", directory / "work")) is not None:
            subjects[f"a real ComfyUI ({chosen_device()}), with tiny weights"] = real
        else:
            say("NOT MEASURED ON A REAL COMFYUI: set COMFYUI to a checkout of it")
        for subject, environment in subjects.items():
            own = Path(tempfile.mkdtemp(dir=name))
            figures = await run(environment, jobs, own)
            say(f"\non {subject}, {jobs} jobs")
            say(table(("what", "value", "limit", "of the limit", ""), [figure.row() for figure in figures]))
            missed = missed or any(figure.missed for figure in figures)
    return int(missed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10, help="how many clips are timed (default: 10)")
    sys.exit(asyncio.run(main(parser.parse_args().jobs)))
