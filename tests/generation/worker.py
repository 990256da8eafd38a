"""A scripted GPU worker: it takes jobs from the emulator over the URLs of RunPod's SDK, and follows a script.

The real worker has an environment of its own (``gpu-endpoint``) and is tested with the whole platform. These tests are
about what generation does with a worker's behaviour.
"""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from service_runtime.authorities import trusted_authorities

FILE = b"\x00\x00\x00\x18ftypmp42 not really a clip"

Work = Callable[["Worker", dict[str, Any]], Awaitable[dict[str, Any] | None]]
"""A script for one job: returns the body for job-done, or None to report nothing."""


class Worker:
    """Works on many jobs at a time, so that no job waits for the script of another."""

    def __init__(self, emulator_url: str, endpoint_id: str, api_key: str) -> None:
        self.url = f"{emulator_url}/v2/{endpoint_id}"
        self.http = httpx.AsyncClient(headers={"authorization": api_key}, timeout=30.0, verify=trusted_authorities())
        self.work: Work = deliver
        self.taken: list[dict[str, Any]] = []
        self._jobs: set[asyncio.Task[None]] = set()

    async def take(self) -> None:
        """Take jobs until cancelled."""
        while True:
            answer = await self.http.get(f"{self.url}/job-take/worker-1", params={"job_in_progress": 1})
            if answer.status_code != 200:
                continue
            taken = answer.json()
            for job in taken if isinstance(taken, list) else [taken]:
                self.taken.append(job)
                task = asyncio.create_task(self._do(job))
                self._jobs.add(task)
                task.add_done_callback(self._jobs.discard)

    async def _do(self, job: dict[str, Any]) -> None:
        result = await self.work(self, job)
        if result is not None:
            url = f"{self.url}/job-done/worker-1/{job['id']}"
            await self.http.post(url, params={"isStream": "false"}, content=json.dumps(result))

    async def upload(self, job: dict[str, Any], content: bytes = FILE) -> dict[str, Any]:
        """Put the file where the job says, and return the output that names it."""
        output = job["input"]["output"]
        answer = await self.http.put(output["put_url"], content=content, headers={"authorization": ""})
        answer.raise_for_status()
        file = {
            "object_key": output["object_key"],
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "content_type": output["content_type"],
        }
        return {"outputs": [file], "report": {"renderer": "scripted"}}

    async def progress(self, job: dict[str, Any], percent: int) -> None:
        """Report progress. If it is not received, the job goes on, as with the real worker."""
        body = {"percent": percent, "stage": "rendering", "job_id": job["id"]}
        with contextlib.suppress(httpx.HTTPError):
            await self.http.post(job["input"]["progress_url"], json=body)


async def deliver(worker: Worker, job: dict[str, Any]) -> dict[str, Any] | None:
    """Report progress, upload the file, report it."""
    await worker.progress(job, 50)
    return {"output": await worker.upload(job)}


async def fall_silent(worker: Worker, job: dict[str, Any]) -> dict[str, Any] | None:
    """Take the job and never report anything."""
    return None


async def upload_and_fall_silent(worker: Worker, job: dict[str, Any]) -> dict[str, Any] | None:
    """Upload the file, and die before reporting it."""
    await worker.upload(job)
    return None


def failing(code: str, detail: str, *, user_fault: bool = False) -> Work:
    """Fail as our worker does."""

    async def fail(worker: Worker, job: dict[str, Any]) -> dict[str, Any] | None:
        return {"error": json.dumps({"code": code, "detail": detail, "user_fault": user_fault})}

    return fail


def in_turn(*scripts: Work) -> Work:
    """One script for each job in turn; the last one for all that follow."""
    remaining = list(scripts)

    async def next_script(worker: Worker, job: dict[str, Any]) -> dict[str, Any] | None:
        script = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return await script(worker, job)

    return next_script


@asynccontextmanager
async def working(emulator_url: str, endpoint_id: str, api_key: str) -> AsyncIterator[Worker]:
    """A worker that takes jobs inside the block."""
    worker = Worker(emulator_url, endpoint_id, api_key)
    taking = asyncio.create_task(worker.take())
    try:
        yield worker
    finally:
        taking.cancel()
        await asyncio.gather(taking, *worker._jobs, return_exceptions=True)
        await worker.http.aclose()
