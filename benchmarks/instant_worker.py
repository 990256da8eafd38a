"""A worker that renders nothing: it uploads one fixed picture at once, so that what is measured is the platform."""

import asyncio
import hashlib
from typing import Any

import httpx


class InstantWorker:
    """Takes jobs from the RunPod emulator as the SDK does, ``slots`` at a time."""

    def __init__(self, runpod_url: str, endpoint_id: str, api_key: str, picture: bytes, slots: int = 16) -> None:
        self._base = f"{runpod_url}/v2/{endpoint_id}"
        self._headers = {"Authorization": api_key}
        self._picture = picture
        self._sha256 = hashlib.sha256(picture).hexdigest()
        self._slots = slots

    async def run(self) -> None:
        """Work until cancelled."""
        async with httpx.AsyncClient(timeout=60, trust_env=False) as http, asyncio.TaskGroup() as group:
            for slot in range(self._slots):
                group.create_task(self._work(http, f"instant-{slot}"))

    async def _work(self, http: httpx.AsyncClient, worker_id: str) -> None:
        while True:
            taken = await http.get(
                f"{self._base}/job-take/{worker_id}", params={"job_in_progress": "0"}, headers=self._headers
            )
            if taken.status_code == httpx.codes.OK and taken.content:
                await self._do(http, worker_id, taken.json())

    async def _do(self, http: httpx.AsyncClient, worker_id: str, job: dict[str, Any]) -> None:
        wanted = job["input"]["output"]
        put = await http.put(wanted["put_url"], content=self._picture, headers={"Content-Type": wanted["content_type"]})
        put.raise_for_status()
        claim = {
            "object_key": wanted["object_key"],
            "size_bytes": len(self._picture),
            "sha256": self._sha256,
            "content_type": wanted["content_type"],
        }
        output = {"outputs": [claim], "report": {"renderer": "instant"}}
        done = await http.post(
            f"{self._base}/job-done/{worker_id}/{job['id']}",
            params={"isStream": "false"},
            json={"output": output},
            headers=self._headers,
        )
        done.raise_for_status()
