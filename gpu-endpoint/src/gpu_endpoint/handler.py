"""One job from its input to its result: fetch, render, upload. What RunPod's SDK calls."""

import asyncio
import contextlib
import hashlib
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from gpu_endpoint.failures import JobFailure
from gpu_endpoint.inputs import fetch_images
from gpu_endpoint.job import RenderJob, parse_job
from gpu_endpoint.machine import Machine
from gpu_endpoint.progress import Progress, ReportProgress, progress_posts
from gpu_endpoint.renderers import Renderer
from gpu_endpoint.upload import upload

KEEP_ALIVE: Final = {"keep_alive": True}
"""The input of a job that does nothing: any request keeps RunPod from switching an idle endpoint off."""
_TIMEOUT: Final = httpx.Timeout(10.0, read=60.0, write=60.0)

_log = logging.getLogger(__name__)


class JobHandler:
    """Renders jobs with one renderer. Lives as long as the worker."""

    def __init__(self, renderer: Renderer, machine: Machine) -> None:
        self._renderer = renderer
        self._machine = machine
        self._http: httpx.AsyncClient | None = None

    async def handle(self, job: dict[str, Any]) -> dict[str, Any]:
        """RunPod's handler: the output, or ``{"error": ...}`` for a failure with a known reason.

        A cancelled job ends here with CancelledError let out, its rendering stopped and its files removed. What is
        unexpected is let out too, and the SDK reports it with its traceback.
        """
        began = time.monotonic()
        facts = self._machine.job_facts()
        if job["input"] == KEEP_ALIVE:
            return dict(KEEP_ALIVE)
        try:
            render_job = parse_job(job["input"])
            _log.info("job_taken", extra={"job": job["id"], **_described(render_job)})
            output = await self._run(job["id"], render_job, facts)
        except JobFailure as failure:
            _log.warning("job_failed", extra={"job": job["id"], "code": failure.code, "reason": failure.detail})
            # The SDK takes ``refresh_worker`` out and tells the provider to replace this worker.
            failure.facts = {**facts, **failure.facts}
            return {"error": failure.as_error()} | ({"refresh_worker": True} if failure.replace_worker else {})
        except asyncio.CancelledError:
            _log.info("job_stopped", extra={"job": job["id"], "seconds": round(time.monotonic() - began, 3)})
            raise
        _log.info("job_done", extra={"job": job["id"], **output["report"]})
        return output

    async def _run(self, job_id: str, job: RenderJob, facts: Mapping[str, int | float | str]) -> dict[str, Any]:
        http = self._client()
        timings: dict[str, float] = {}
        with tempfile.TemporaryDirectory(prefix="gpu-endpoint-") as name:
            async with progress_posts(http, job.progress_url, job_id) as report_progress:
                directory = Path(name)
                with _timed(timings, "input_seconds"):
                    images = await fetch_images(http, job.images, directory / "inputs")
                with _timed(timings, "render_seconds"):
                    rendered = await self._renderer.render(job, images, directory, report_progress)
                with _timed(timings, "upload_seconds"):
                    _report_upload(report_progress)
                    uploaded = await upload(http, rendered.path, job.output)
        report = {"renderer": self._renderer.name, **facts, **timings, **rendered.facts}
        return {"outputs": [msgspec.to_builtins(uploaded)], "report": report}

    def _client(self) -> httpx.AsyncClient:
        """Made by the first job, because it must belong to the event loop that the SDK starts."""
        if self._http is None:
            self._http = httpx.AsyncClient(timeout=_TIMEOUT)
        return self._http


def _report_upload(report_progress: ReportProgress) -> None:
    report_progress(Progress(percent=98, stage="uploading"))


def _described(job: RenderJob) -> dict[str, Any]:
    """What a log may say of a job: the prompt belongs to the user, so only its length and fingerprint."""
    prompt = str(job.parameters.get("prompt", ""))
    return {
        "generation": job.generation_id,
        "attempt": job.attempt_number,
        "model": job.model_id,
        "prompt_length": len(prompt),
        "prompt_fingerprint": hashlib.sha256(prompt.encode()).hexdigest()[:12],
    }


@contextlib.contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    timings[name] = round(time.perf_counter() - began, 3)
