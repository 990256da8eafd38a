"""A worker that renders nothing: it uploads one fixed picture, so that only the platform is measured."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from yarl import URL

from local_platform.description import PlatformDescription
from local_platform.process_table import ENDPOINT_ID
from tests.support.media import picture

SIDE_PIXELS: Final = 256
"""Of the picture that :func:`instant_worker` uploads: so large must orders be."""


class InstantWorker:
    """Takes jobs from the RunPod emulator as the SDK does, ``slots`` at a time, each busy for ``seconds``.

    With ``reports_begin`` it says that it has begun, as our worker does.
    """

    def __init__(
        self,
        runpod_url: str,
        endpoint_id: str,
        api_key: str,
        picture: bytes,
        slots: int = 16,
        seconds: Callable[[], float] = lambda: 0.0,
        *,
        reports_begin: bool = False,
    ) -> None:
        self._base = f"{runpod_url}/v2/{endpoint_id}"
        self._headers = {"Authorization": api_key}
        self._picture = picture
        self._sha256 = hashlib.sha256(picture).hexdigest()
        self._slots = slots
        self._seconds = seconds
        self._reports_begin = reports_begin
        self.busy = 0

    async def run(self) -> None:
        """Work until cancelled."""
        # Not httpx: the load runs on the same cores as the platform, and this client needs a fifth of its time.
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as http, asyncio.TaskGroup() as group:
            for slot in range(self._slots):
                group.create_task(self._work(http, f"instant-{slot}"))

    async def _work(self, http: aiohttp.ClientSession, worker_id: str) -> None:
        while True:
            url = f"{self._base}/job-take/{worker_id}"
            async with http.get(url, params={"job_in_progress": "0"}, headers=self._headers) as answer:
                job = await answer.json() if answer.status == HTTPStatus.OK else None
            if job:
                self.busy += 1
                if self._reports_begin:
                    await self._report_begin(http, job)
                await asyncio.sleep(self._seconds())
                await self._run_job(http, worker_id, job)
                self.busy -= 1

    async def _report_begin(self, http: aiohttp.ClientSession, job: dict[str, Any]) -> None:
        url = URL(job["input"]["progress_url"], encoded=True)
        body = {"percent": 0, "stage": "rendering", "job_id": job["id"]}
        async with http.post(url, json=body) as answer:
            answer.raise_for_status()

    async def _run_job(self, http: aiohttp.ClientSession, worker_id: str, job: dict[str, Any]) -> None:
        requested = job["input"]["output"]
        put_url = URL(requested["put_url"], encoded=True)  # the signature covers this very encoding
        async with http.put(put_url, data=self._picture, headers={"Content-Type": requested["content_type"]}) as answer:
            answer.raise_for_status()
        file = {
            "object_key": requested["object_key"],
            "size_bytes": len(self._picture),
            "sha256": self._sha256,
            "content_type": requested["content_type"],
        }
        output = {"outputs": [file], "report": {"renderer": "instant"}}
        url = f"{self._base}/job-done/{worker_id}/{job['id']}"
        async with http.post(
            url, params={"isStream": "false"}, json={"output": output}, headers=self._headers
        ) as answer:
            answer.raise_for_status()


@asynccontextmanager
async def instant_worker(platform: PlatformDescription) -> AsyncIterator[None]:
    """A worker that renders nothing takes the jobs inside the block."""
    api_key = platform.environments["generation"]["GENERATION_RUNPOD_API_KEY"]
    worker = InstantWorker(platform.urls["runpod"], ENDPOINT_ID, api_key, picture(SIDE_PIXELS, SIDE_PIXELS))
    working = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        working.cancel()
        await asyncio.wait({working})
