"""The real worker in its own environment, under the real SDK. It gets its jobs from the emulator."""

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from contracts.values import Kind
from local_platform.process_table import processes
from local_platform.servers.processes import ChildProcess
from tests.local_platform.runpod import API_KEY
from tests.support.serving import listening_socket, serving

GPU_ENDPOINT = Path(__file__).parents[2] / "gpu-endpoint"
PYTHON = GPU_ENDPOINT / ".venv/bin/python"

needs_environment = pytest.mark.skipif(not PYTHON.exists(), reason="gpu-endpoint/.venv is missing: make install")


@dataclass
class WorkerHarness:
    """One worker process with a temporary directory of its own."""

    process: ChildProcess
    temporary: Path

    def files(self) -> list[str]:
        """The files of its jobs."""
        # Not rglob: it fails if the worker removes a directory meanwhile.
        return [os.path.join(directory, name) for directory, _, names in os.walk(self.temporary) for name in names]

    def log(self) -> str:
        return self.process.log_file.read_text()

    def stopped(self, job_id: str) -> bool:
        """Whether its log says that it stopped the job."""
        return any("job_stopped" in line and job_id in line for line in self.log().splitlines())


@contextlib.contextmanager
def running_worker(
    emulator_url: str, directory: Path, name: str = "worker-1", **more_environment: str
) -> Iterator[WorkerHarness]:
    """Start a worker as a local platform does. It is ready when it takes a job."""
    temporary = directory / name
    temporary.mkdir(parents=True, exist_ok=True)
    wiring = SimpleNamespace(url=lambda _: emulator_url, secret=lambda _: API_KEY)
    [worker] = [spec for spec in processes(1) if spec.stage == "worker"]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONUNBUFFERED": "1",
        "HOME": str(temporary),
        "TMPDIR": str(temporary),
        **worker.environment(wiring),  # type: ignore[arg-type]
        "RUNPOD_POD_ID": name,
        **more_environment,
    }
    process = ChildProcess(
        [PYTHON, "-m", "gpu_endpoint"], log_file=directory / f"{name}.log", environment=environment, directory=directory
    )
    try:
        yield WorkerHarness(process, temporary)
    finally:
        process.kill()


@dataclass
class BucketHarness:
    """Accepts uploads and progress posts and serves pictures, like a bucket and a callback ingress."""

    url: str
    directory: Path
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    progress: list[dict[str, Any]] = field(default_factory=list)
    put_answers: list[int] = field(default_factory=list)
    progress_status: int = 200
    pictures: dict[str, bytes] = field(default_factory=dict, repr=False)

    def job(self, key: str, kind: Kind = "video", **parameters: Any) -> dict[str, Any]:
        """A complete job input whose file goes to ``key``."""
        wanted: dict[str, Any] = {"width": 832, "height": 480, "prompt": "a lighthouse at dusk", "seed": 7, "steps": 20}
        if kind == "video":
            wanted |= {"duration_seconds": 3, "frames_per_second": 16}
        return {
            "schema": 1,
            "generation_id": key,
            "attempt_id": f"{key}-1",
            "attempt_number": 1,
            "kind": kind,
            "model_id": "wan-2.2-t2v",
            "parameters": wanted | parameters,
            "workflow": {},
            "images": [{"name": name, "url": f"{self.url}/pictures/{name}"} for name in self.pictures],
            "output": {
                "object_key": key,
                "put_url": f"{self.url}/put/{key}?signature=secret",
                "content_type": "video/mp4" if kind == "video" else "image/png",
                "max_size_bytes": 50_000_000,
            },
            "progress_url": f"{self.url}/progress",
        }

    async def put(self, request: Request) -> Response:
        key, digest, size = request.path_params["key"], hashlib.sha256(), 0
        unfinished = self.directory / f"{key}.unfinished"
        try:
            # A large file is not held in memory: that of the whole process is measured beside it.
            with unfinished.open("wb") as file:
                async for chunk in request.stream():
                    digest.update(chunk)
                    size += file.write(chunk)
        except ClientDisconnect:
            unfinished.unlink()
            return Response(status_code=400)
        status = self.put_answers.pop(0) if self.put_answers else 200
        if status != 200:
            unfinished.unlink()
        else:
            unfinished.rename(self.directory / key)
            self.uploads[key] = {
                "size": size,
                "sha256": digest.hexdigest(),
                "type": request.headers["content-type"],
                "length": request.headers.get("content-length"),
            }
        return Response(status_code=status)

    async def post_progress(self, request: Request) -> Response:
        self.progress.append(await request.json())
        return Response(status_code=self.progress_status)

    async def get_picture(self, request: Request) -> Response:
        return Response(self.pictures[request.path_params["name"]])


@contextlib.asynccontextmanager
async def running_bucket(directory: Path) -> AsyncIterator[BucketHarness]:
    """A bucket on a free port. It keeps its files in ``directory``."""
    listener, url = listening_socket()
    bucket = BucketHarness(url, directory)
    routes = [
        Route("/put/{key}", bucket.put, methods=["PUT"]),
        Route("/progress", bucket.post_progress, methods=["POST"]),
        Route("/pictures/{name}", bucket.get_picture),
    ]
    async with serving(Starlette(routes=routes), listener):
        yield bucket
