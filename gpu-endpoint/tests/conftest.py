"""What the worker's own tests share."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gpu_endpoint.job import RenderJob, parse_job
from gpu_endpoint.model_store import local_disk


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait, up to ten seconds or that many, until it is true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def disk_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker leaves a share of its disk free. Whether models are copied here is no matter of this machine's disk."""
    monkeypatch.setattr(local_disk, "disk_usage", lambda _: local_disk.DiskUsage(total=10**12, free=10**12 // 2))


@pytest.fixture
def job_input() -> Callable[..., dict[str, Any]]:
    """A complete job input: ``job_input("image", width=64)``."""

    def make(kind: str = "video", **parameters: Any) -> dict[str, Any]:
        wanted: dict[str, Any] = {"width": 128, "height": 96, "prompt": "a lighthouse", "seed": 7}
        if kind == "video":
            wanted |= {"duration_seconds": 1, "frames_per_second": 8}
        return {
            "schema": 1,
            "generation_id": "g",
            "attempt_id": "a",
            "attempt_number": 1,
            "kind": kind,
            "model_id": "model",
            "parameters": wanted | parameters,
            "output": {
                "object_key": "g/1/output",
                "put_url": "http://store/put?signature=secret",
                "content_type": "video/mp4",
                "max_size_bytes": 1_000_000,
            },
        }

    return make


@pytest.fixture
def make_job(job_input: Callable[..., dict[str, Any]]) -> Callable[..., RenderJob]:
    """The same, parsed."""
    return lambda *arguments, **parameters: parse_job(job_input(*arguments, **parameters))
