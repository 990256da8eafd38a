"""The RunPod emulator for tests: served in the test's event loop, with a client and a worker that the test drives."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_platform.runpod_emulator.emulator import Emulator
from local_platform.runpod_emulator.server import EmulatorServer
from local_platform.runpod_emulator.settings import EmulatorSettings
from local_platform.servers.processes import ChildProcess
from tests.support.serving import listening_socket, serving
from tests.support.waiting import eventually

API_KEY = "test-key"
ENDPOINT = "preview"


@dataclass
class RunPodHarness:
    """A client of the public and the admin API."""

    url: str
    http: httpx.AsyncClient
    endpoint: str = ENDPOINT

    async def call(self, method: str, operation: str, **body: Any) -> httpx.Response:
        """``operation`` is what follows the endpoint: ``run``, ``status/ID``."""
        return await self.http.request(method, f"{self.url}/v2/{self.endpoint}/{operation}", json=body or None)

    async def run(self, job_input: dict[str, Any] | None = None, **more: Any) -> str:
        answer = await self.call("POST", "run", input=job_input or {"n": 1}, **more)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    async def status(self, job_id: str) -> dict[str, Any]:
        """The job object, or ``{"status": 404}``."""
        answer = await self.call("GET", f"status/{job_id}")
        if answer.status_code == 404:
            return {"status": 404}
        return dict(answer.json())

    async def ended(self, job_id: str, status: str | int, timeout: float = 10) -> dict[str, Any]:
        """Wait until the job has this status."""

        async def reached() -> dict[str, Any]:
            body = await self.status(job_id)
            assert body["status"] == status, body
            return body

        return await eventually(reached, timeout=timeout, what=f"status {status}")

    async def rule(self, effect: str, **details: Any) -> dict[str, Any]:
        answer = await self.http.post(f"{self.url}/admin/rules", json={"effect": effect, **details})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def settings(self, **changes: Any) -> None:
        answer = await self.http.patch(f"{self.url}/admin/settings", json=changes)
        assert answer.status_code == 200, answer.text

    async def jobs(self, **filters: str) -> list[dict[str, Any]]:
        return list((await self.http.get(f"{self.url}/admin/jobs", params=filters)).json())

    async def requests(self) -> dict[str, Any]:
        return dict((await self.http.get(f"{self.url}/admin/requests")).json())

    def worker(self, name: str = "w1") -> "ManualWorker":
        return ManualWorker(self, name)


@dataclass
class ManualWorker:
    """Calls the emulator as RunPod's SDK does, one request at a time."""

    runpod: RunPodHarness
    name: str

    async def get(self, operation: str, query: str = "") -> httpx.Response:
        url = f"{self.runpod.url}/v2/{self.runpod.endpoint}/{operation}/{self.name}?gpu=none{query}"
        return await self.runpod.http.get(url, headers={"authorization": API_KEY})

    async def take(self, *, busy: bool = False) -> str | None:
        """Poll for a job. Returns its id, or None."""
        answer = await self.get("job-take", f"&job_in_progress={int(busy)}")
        return None if answer.status_code == 204 else str(answer.json()["id"])

    async def stops(self) -> list[str]:
        answer = await self.get("job-stop")
        return [] if answer.status_code == 204 else list(answer.json()["jobsToStop"])

    async def post(self, job_id: str, body: dict[str, Any], operation: str = "job-done") -> int:
        url = f"{self.runpod.url}/v2/{self.runpod.endpoint}/{operation}/{self.name}/{job_id}?gpu=none&isStream=false"
        answer = await self.runpod.http.post(url, json=body, headers={"authorization": API_KEY})
        return answer.status_code

    async def do(self, output: Any = "done") -> str:
        """Take one job and finish it."""
        job_id = await self.take()
        assert job_id is not None
        assert await self.post(job_id, {"output": output}) == 200
        return job_id


@contextlib.contextmanager
def emulator_process(directory: Path, *arguments: str) -> Iterator[str]:
    """An emulator as a process, on a free port. Yields its URL."""
    ready_file = directory / "ready.json"
    command = [sys.executable, "-m", "local_platform.runpod_emulator", "--port", "0", "--api-key", API_KEY]
    process = ChildProcess(
        [*command, "--ready-file", ready_file, *arguments],
        log_file=directory / "emulator.log",
        environment=dict(os.environ),
        directory=directory,
    )
    try:
        process.wait_until(ready_file.exists, timeout_seconds=30)
        yield json.loads(ready_file.read_text())["url"]
    finally:
        process.kill()


@contextlib.asynccontextmanager
async def client_of(url: str) -> AsyncIterator[RunPodHarness]:
    """A client of a running emulator."""
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {API_KEY}"}, timeout=20) as http:
        yield RunPodHarness(url, http)


@contextlib.asynccontextmanager
async def running_emulator(**settings: Any) -> AsyncIterator[RunPodHarness]:
    """An emulator on a free port. Its polls are short, so that manual workers do not wait long."""
    listener, url = listening_socket()
    server = EmulatorServer(Emulator(API_KEY, EmulatorSettings(**{"worker_poll_seconds": 0.2, **settings})))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await eventually(lambda: server.started or task.done(), what="the emulator's start")
        async with client_of(url) as runpod:
            yield runpod
    finally:
        server.should_exit = True
        await task


@dataclass
class WebhookReceiver:
    """A webhook receiver. It answers with the statuses in ``answers``, in order, and then with 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    received: list[dict[str, Any]] = field(default_factory=list)

    async def receive(self, request: Request) -> Response:
        self.received.append(await request.json())
        return Response(status_code=self.answers.pop(0) if self.answers else 200)

    async def arrived(self, count: int) -> list[dict[str, Any]]:
        await eventually(lambda: len(self.received) >= count, what=f"{count} webhooks")
        return self.received


@contextlib.asynccontextmanager
async def receiving_webhooks() -> AsyncIterator[WebhookReceiver]:
    """A receiver on a free port."""
    listener, url = listening_socket()
    hook = WebhookReceiver(f"{url}/hook")
    async with serving(Starlette(routes=[Route("/hook", hook.receive, methods=["POST"])]), listener):
        yield hook
