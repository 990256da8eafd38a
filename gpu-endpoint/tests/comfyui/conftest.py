"""A running stand-in, driven as the real ComfyUI is."""

import asyncio
import contextlib
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gpu_endpoint.job import RenderJob, parse_job
from gpu_endpoint.progress import Progress
from gpu_endpoint.renderers import RenderedFile
from gpu_endpoint.renderers.comfyui import ComfyUIRenderer, ComfyUISettings
from gpu_endpoint.renderers.comfyui.client import ComfyUIClient
from tests.conftest import until

STAND_IN = Path(__file__).parent / "standin"
PROMPT = "a lighthouse that nobody may read about"

MakeSettings = Callable[..., ComfyUISettings]


@pytest.fixture(scope="session")
def standin_settings(tmp_path_factory: pytest.TempPathFactory) -> MakeSettings:
    """Settings of a worker whose ComfyUI is the stand-in: ``standin_settings("--standin-save-seconds", "1")``."""

    def make(*arguments: str, **changes: Any) -> ComfyUISettings:
        chosen: dict[str, Any] = {"environment": {"PATH": "/usr/bin:/bin"}, "poll_seconds": 0.1, "stop_seconds": 2.0}
        return ComfyUISettings(
            checkout=STAND_IN,
            python=Path(sys.executable),
            work_directory=tmp_path_factory.mktemp("comfyui"),
            arguments=arguments,
            **chosen | changes,
        )

    return make


@dataclass
class RendererHarness:
    """A renderer with its stand-in, and what it reported."""

    settings: ComfyUISettings
    directory: Path
    reports: list[Progress] = field(default_factory=list)
    boots_before: int = 0

    def __post_init__(self) -> None:
        self.renderer = ComfyUIRenderer(self.settings)

    @property
    def process(self) -> Any:
        """The renderer's own."""
        return self.renderer._process

    @property
    def boots(self) -> int:
        """How often ComfyUI was started for this test, the one that it found ready included."""
        boots: int = self.process.boots - self.boots_before
        return boots

    def job(self, graph: dict[str, Any], extension: str = ".mp4", **changes: Any) -> RenderJob:
        """An order of that workflow."""
        return parse_job(
            {
                "schema": 1,
                "generation_id": "g",
                "attempt_id": str(uuid.uuid4()),
                "attempt_number": 1,
                "kind": "video",
                "model_id": "model",
                "parameters": {"prompt": PROMPT, "steps": 4},
                "workflow": graph,
                "output": {
                    "object_key": f"g/1/output{extension}",
                    "put_url": "http://127.0.0.1:9/put?signature=secret",
                    "content_type": "video/mp4",
                    "max_size_bytes": 2**31,
                },
            }
            | changes
        )

    async def render(self, graph: dict[str, Any], extension: str = ".mp4", **inputs: bytes) -> RenderedFile:
        """Render an order of that workflow; ``inputs`` are pictures and clips by name."""
        return await self.render_job(self.job(graph, extension), **inputs)

    async def render_job(self, job: RenderJob, **inputs: bytes) -> RenderedFile:
        """Render an order."""
        directory = self.directory / uuid.uuid4().hex
        directory.mkdir()
        images = []
        for name, content in inputs.items():
            images.append(directory / f"{name}.{'mp4' if content[4:8] == b'ftyp' else 'png'}")
            images[-1].write_bytes(content)
        return await self.renderer.render(job, images, directory, self.reports.append)

    @contextlib.asynccontextmanager
    async def rendering(self, graph: dict[str, Any], node: str) -> AsyncIterator["asyncio.Task[RenderedFile]"]:
        """A task that renders the workflow and has come to the node of that title."""
        self.reports.clear()
        task = asyncio.create_task(self.render(graph))
        await until(lambda: task.done() or any(report.node == node for report in self.reports))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    def files(self) -> list[str]:
        """What lies in ComfyUI's directories of input, output and temporary files, directories included."""
        work = self.settings.work_directory
        return [
            str(path.relative_to(work)) for name in ("input", "output", "temp") for path in (work / name).rglob("*")
        ]

    async def restart(self) -> None:
        """Start ComfyUI anew: what a test did to it by itself is gone."""
        await self.renderer.close()
        await self.renderer.open()

    async def queue_and_history(self) -> tuple[Any, Any, Any]:
        """What a real ComfyUI says of prompts: those that run, those that wait, those that ended."""
        await self.process.ready()
        async with aiohttp.ClientSession(self.process.url) as http:
            async with http.get("/queue") as answer:
                queue = await answer.json()
            async with http.get("/history") as answer:
                history = await answer.json()
        return queue["queue_running"], queue["queue_pending"], history

    async def left(self) -> dict[str, Any]:
        """What ComfyUI still knows, once it is ready: its queue, and its histories by prompt."""
        await self.process.ready()
        async with aiohttp.ClientSession(self.process.url) as http, http.get("/standin/left") as answer:
            left: dict[str, Any] = await answer.json()
            return left

    async def expect_nothing_left(self) -> None:
        """Neither a file nor a prompt."""
        assert self.files() == []
        assert await self.left() == {"running": None, "pending": [], "history": []}


async def cancelled(task: "asyncio.Task[Any]") -> float:
    """Seconds until a cancelled task has ended."""
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - began


@pytest.fixture
async def make_renderer(
    standin_settings: MakeSettings, tmp_path: Path
) -> AsyncIterator[Callable[..., RendererHarness]]:
    """A renderer of the test's own: ``make_renderer("--standin-save-seconds", "1", stop_seconds=0.2)``."""
    made: list[RendererHarness] = []

    def make(*arguments: str, **changes: Any) -> RendererHarness:
        made.append(RendererHarness(standin_settings(*arguments, **changes), tmp_path))
        return made[-1]

    yield make
    for harness in made:
        await harness.renderer.close()


@pytest.fixture(scope="session")
def shared_renderer(
    standin_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RendererHarness]:
    """One for all tests that leave it in order, which is what they are about: a start takes half a second."""
    harness = RendererHarness(standin_settings(), tmp_path_factory.mktemp("jobs"))
    yield harness
    asyncio.run(harness.renderer.close())


@pytest.fixture
async def comfyui(shared_renderer: RendererHarness) -> RendererHarness:
    """A renderer that is ready, has been asked for nothing yet, and remembers no result."""
    await shared_renderer.renderer.open()
    async with ComfyUIClient(shared_renderer.process.url, answer_seconds=10) as client:
        await client.free(forget_results=True)
    shared_renderer.reports.clear()
    shared_renderer.boots_before = shared_renderer.process.boots - 1
    return shared_renderer
