"""Rendering with ComfyUI: the job's files in and out, the way out of memory troubles, and nothing left behind."""

import asyncio
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gpu_endpoint.failures import ExecutionFailed, JobFailure, OutOfMemory, WorkerUnavailable
from gpu_endpoint.job import RenderJob
from gpu_endpoint.model_store import ModelStore
from gpu_endpoint.pictures import keep_first_picture
from gpu_endpoint.progress import ReportProgress
from gpu_endpoint.redaction import Redactor
from gpu_endpoint.renderers.comfyui.classification import Trouble, execution_failure, rejection_failure, trouble_of
from gpu_endpoint.renderers.comfyui.client import ComfyUIClient, Job, PromptRejected, Unreachable, pause_until_freed
from gpu_endpoint.renderers.comfyui.driver import Interrupted, NodeFailed, ProcessLost, PromptDriver
from gpu_endpoint.renderers.comfyui.memory import PeakMemory
from gpu_endpoint.renderers.comfyui.outputs import named_files, ordered_file
from gpu_endpoint.renderers.comfyui.process import ComfyUIProcess
from gpu_endpoint.renderers.comfyui.scale import ProgressScale
from gpu_endpoint.renderers.comfyui.settings import ComfyUISettings
from gpu_endpoint.renderers.comfyui.warm_up import warm_up
from gpu_endpoint.renderers.comfyui.workflow import (
    Workflow,
    checked,
    is_decode,
    model_files,
    node_named,
    prepared,
    prompt_id,
    tiled,
)
from gpu_endpoint.renderers.renderer import RenderedFile
from gpu_endpoint.renderers.stoppable import uninterrupted

_PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})

_log = logging.getLogger(__name__)


class _MemoryRanOut(Exception):
    """In a run that may be worth another, more frugal one."""

    def __init__(self, detail: str, *, maybe_in_decoding: bool) -> None:
        super().__init__(detail)
        self.maybe_in_decoding = maybe_in_decoding


class ComfyUIRenderer:
    """Renders with one ComfyUI beside it, which outlives jobs. Without ``models`` it looks after no model files."""

    name = "comfyui"

    def __init__(self, settings: ComfyUISettings, models: ModelStore | None = None) -> None:
        self._settings = settings
        self._models = models
        self._process = ComfyUIProcess(settings)

    async def open(self) -> None:
        """Start ComfyUI, and while it starts, check and copy models. Then warm up the pinned ones.

        Raises WorkerUnavailable, WorkerMisconfigured.
        """
        if self._models is None:
            await self._process.ready()
            return
        self._models.tell_comfyui()
        self._process.start_soon()
        # First the check: its small reads would wait behind those of the copies.
        await asyncio.to_thread(self._models.check)
        self._models.hydrate()
        await self._process.ready()
        await warm_up(self.render, self._models)
        # One that hung in a warm-up was killed.
        await self._process.ready()

    async def close(self) -> None:
        """End ComfyUI."""
        if self._models is not None:
            self._models.close()
        await self._process.kill()

    async def render(
        self, job: RenderJob, images: Sequence[Path], directory: Path, report_progress: ReportProgress
    ) -> RenderedFile:
        """Run the job's workflow. When it is over, however, ComfyUI is idle or starts anew, and holds nothing of it."""
        workflow = checked(job.workflow)
        await asyncio.to_thread(_keep_first_pictures, images)
        folder = prompt_id(job.attempt_id, run=0)
        run = _Run(self._process, self._settings, job, report_progress)
        try:
            await self._process.ready()
            await uninterrupted(asyncio.to_thread(_place, images, self._process.input_directory / folder))
            finished = await run.to_the_end(prepared(workflow, folder, {image.name for image in images}))
            files = named_files(finished, self._process.output_directory)
            run.count_files(len(files))
            ordered = ordered_file(files, workflow, job.kind, Path(job.output.object_key).suffix)
            # On one file system, however large it is, it is moved at once.
            target = directory / f"output{ordered.suffix}"
            path = Path(await uninterrupted(asyncio.to_thread(shutil.move, ordered, target)))
        except JobFailure as failure:
            failure.facts = run.facts() | failure.facts
            raise
        finally:
            await uninterrupted(self._leave_nothing(run.prompt_ids))
            if self._models is not None:
                self._models.use({name for node in workflow.values() for name in model_files(node)})
        return RenderedFile(path=path, facts=run.facts())

    async def _leave_nothing(self, prompt_ids: Sequence[str]) -> None:
        if self._process.alive:
            try:
                async with ComfyUIClient(self._process.url, self._settings.answer_seconds) as client:
                    for prompt in prompt_ids:
                        await client.delete_history(prompt)
            except Unreachable:
                if not self._process.starting:
                    # Its memory holds what must not stay.
                    await self._process.kill()
                    self._process.start_soon()
        await asyncio.to_thread(self._process.clear)


class _Run:
    """One job's runs of its workflow: as ordered, and if memory runs out, more frugally."""

    def __init__(
        self, process: ComfyUIProcess, settings: ComfyUISettings, job: RenderJob, report_progress: ReportProgress
    ) -> None:
        self._process = process
        self._settings = settings
        self._job = job
        self._report_progress = report_progress
        self._redact = Redactor(job.parameters)
        self._memory = PeakMemory()
        self._facts: dict[str, int | float | str] = {}
        self.prompt_ids: list[str] = []

    def facts(self) -> dict[str, int | float | str]:
        """For the report."""
        return {
            **self._facts,
            **self._memory.facts(),
            "runs": len(self.prompt_ids),
            "comfyui_version": self._process.version,
        }

    def count_files(self, count: int) -> None:
        """Report how many files ComfyUI named: one of them is delivered, and the others are deleted."""
        self._facts["files"] = count

    async def to_the_end(self, workflow: Workflow) -> Job:
        """Run it: again with memory freed if that ran out, and then decoding in tiles. Raises JobFailure."""
        scale = ProgressScale(workflow, self._job.parameters.get("steps"))
        try:
            return await self._once(workflow, scale)
        except _MemoryRanOut as first:
            _log.warning("memory_ran_out", extra={"reason": str(first), "next": "memory_freed"})
        try:
            return await self._once(workflow, scale)
        except _MemoryRanOut as second:
            frugal = tiled(workflow) if second.maybe_in_decoding else None
            if frugal is None:
                raise OutOfMemory(str(second)) from second
            _log.warning("memory_ran_out", extra={"reason": str(second), "next": "tiled_decoding"})
        self._facts["decoding"] = "tiled"
        try:
            return await self._once(frugal, scale)
        except _MemoryRanOut as third:
            raise OutOfMemory(str(third)) from third

    async def _once(self, workflow: Workflow, scale: ProgressScale) -> Job:
        await self._process.ready()
        prompt = prompt_id(self._job.attempt_id, run=len(self.prompt_ids))
        self.prompt_ids.append(prompt)
        async with ComfyUIClient(self._process.url, self._settings.answer_seconds) as client:
            driver = PromptDriver(self._process, client, self._settings, self._memory)
            try:
                finished = await driver.run(prompt, workflow, scale, self._report_progress)
            except PromptRejected as rejected:
                raise rejection_failure(rejected, workflow, self._job.parameters, self._redact) from rejected
            except Interrupted as interrupted:
                raise ExecutionFailed("somebody else interrupted the prompt") from interrupted
            except ProcessLost as lost:
                detail = self._redact(str(lost))
                if lost.killed_by_the_system:
                    raise _MemoryRanOut(f"killed from outside: {detail}", maybe_in_decoding=True) from lost
                raise WorkerUnavailable(detail) from lost
            except NodeFailed as failed:
                raise await self._failure_of(failed, workflow, client) from failed
        self._facts |= finished.facts
        return finished.job

    async def _failure_of(self, failed: NodeFailed, workflow: Workflow, client: ComfyUIClient) -> Exception:
        error = failed.error
        trouble = trouble_of(error)
        if trouble is None:
            return execution_failure(error, workflow, self._redact)
        node = node_named(workflow, error.node_id, error.node_type)
        detail = self._redact(f"{trouble.value}: {node}: {error.exception_type}: {error.exception_message}")
        if trouble is Trouble.DEAD_CONTEXT:
            await self._restart()
            return WorkerUnavailable(detail)
        try:
            # What nodes computed is kept where it lies in the host's memory, for the next run to go on from.
            await client.free(forget_results=trouble is Trouble.HOST_MEMORY)
            await pause_until_freed()
        except Unreachable:
            await self._restart()
        decoding = error.node_id in workflow and is_decode(workflow[error.node_id])
        return _MemoryRanOut(detail, maybe_in_decoding=decoding)

    async def _restart(self) -> None:
        await self._process.kill()
        self._process.start_soon()


def _keep_first_pictures(images: Sequence[Path]) -> None:
    for path in images:
        if path.suffix.lower() in _PICTURES:
            keep_first_picture(path)


def _place(files: Sequence[Path], directory: Path) -> None:
    directory.mkdir(parents=True)
    for path in files:
        shutil.move(path, directory / path.name)
