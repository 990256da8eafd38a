"""One prompt from its submission to its end, whatever happens to ComfyUI meanwhile."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from gpu_endpoint.progress import ReportProgress
from gpu_endpoint.renderers.comfyui.client import ComfyUIClient, ExecutionError, Job, PromptRejected, Unreachable
from gpu_endpoint.renderers.comfyui.listener import Listener
from gpu_endpoint.renderers.comfyui.memory import PeakMemory
from gpu_endpoint.renderers.comfyui.process import ComfyUIProcess
from gpu_endpoint.renderers.comfyui.scale import ProgressScale
from gpu_endpoint.renderers.comfyui.settings import ComfyUISettings
from gpu_endpoint.renderers.comfyui.workflow import Workflow
from gpu_endpoint.renderers.stoppable import uninterrupted

_LISTENING_SECONDS: Final = 2.0
"""Longest wait for the socket: without it a job runs all the same, and shows nothing."""
_QUICK_POLLS: Final = 40
_QUICK_POLL_SECONDS: Final = 0.025
"""Within a second after a message that the prompt ended, its history is there."""
_STOP_POLL_SECONDS: Final = 0.1
_SAMPLE_SECONDS: Final = 2.0
"""Between two looks at the memory in use."""

_log = logging.getLogger(__name__)


class ProcessLost(Exception):
    """ComfyUI died, hung, or forgot the prompt. Nothing of it runs any more. The reason is not redacted."""

    def __init__(self, reason: str, *, killed_by_the_system: bool = False) -> None:
        super().__init__(reason)
        self.killed_by_the_system = killed_by_the_system
        """By a kill that was not ours: the kernel's, when memory ran out."""


class Interrupted(Exception):
    """Somebody else cancelled the prompt."""


class NodeFailed(Exception):
    """A node raised an exception."""

    def __init__(self, error: ExecutionError) -> None:
        super().__init__(error.exception_type)
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A prompt that ran to its end."""

    job: Job
    facts: dict[str, int | float | str]


class PromptDriver:
    """Runs prompts of one job on one ComfyUI, one after the other."""

    def __init__(
        self, process: ComfyUIProcess, client: ComfyUIClient, settings: ComfyUISettings, memory: PeakMemory
    ) -> None:
        self._process = process
        self._client = client
        self._settings = settings
        self._memory = memory

    async def run(
        self, prompt_id: str, workflow: Workflow, scale: ProgressScale, report_progress: ReportProgress
    ) -> Finished:
        """Execute a workflow. However it ends, nothing of it runs any more afterwards.

        Raises:
            PromptRejected: ComfyUI does not execute it, or not all of it.
            NodeFailed, Interrupted, ProcessLost: see there.
        """
        self._memory.begin(self._process.pid)
        patience = self._settings.listen_again_seconds
        listener = Listener(self._client, prompt_id, scale, report_progress, patience)
        submission: asyncio.Task[None] | None = None
        async with _running(listener):
            try:
                submitted_at = time.monotonic()
                submission = asyncio.create_task(self._client.submit(prompt_id, workflow))
                # Shielded: a submission that is given up may still be accepted, and would run later.
                await asyncio.shield(submission)
                job = await self._end_of(prompt_id, listener)
            except PromptRejected as rejected:
                if rejected.error is None:
                    await uninterrupted(self._stop(prompt_id, None))
                raise
            except (asyncio.CancelledError, ProcessLost, Unreachable) as error:
                lost = await self._loss(error)
                await uninterrupted(self._stop(prompt_id, submission))
                if lost is not None:
                    raise lost from error
                raise
        ended_at = time.monotonic()
        self._memory.sample(None, self._process.pid)
        if job.status == "cancelled":
            raise Interrupted
        if job.status == "failed":
            if job.execution_error is None:
                raise ProcessLost("the prompt failed without an error")
            raise NodeFailed(job.execution_error)
        facts: dict[str, int | float | str] = {}
        if job.execution_start_time is not None and job.execution_end_time is not None:
            facts["comfyui_seconds"] = round((job.execution_end_time - job.execution_start_time) / 1000, 3)
        if listener.began_at is not None:
            facts["begin_seconds"] = round(listener.began_at - submitted_at, 3)
        if listener.ended_at is not None:
            facts["notice_seconds"] = round(ended_at - listener.ended_at, 3)
        return Finished(job=job, facts=facts)

    async def _loss(self, error: BaseException) -> ProcessLost | None:
        """What to say instead of an error of the connection, told before the process is killed."""
        if isinstance(error, Unreachable):
            if not self._process.alive:
                return await _died(self._process)
            return ProcessLost(str(error))
        return None

    async def _end_of(self, prompt_id: str, listener: Listener) -> Job:
        answered_at = time.monotonic()
        sampled_at = -_SAMPLE_SECONDS
        quick = 0
        while True:
            try:
                job = await self._client.job(prompt_id)
                if job is not None and job.ended:
                    return job
                if time.monotonic() - sampled_at > _SAMPLE_SECONDS:
                    sampled_at = time.monotonic()
                    self._memory.sample(await self._client.stats(), self._process.pid)
            except Unreachable as error:
                if not self._process.alive:
                    raise await _died(self._process) from error
                if time.monotonic() - answered_at > self._settings.unreachable_seconds:
                    raise ProcessLost("ComfyUI does not answer") from error
            else:
                answered_at = time.monotonic()
                if job is None:
                    raise ProcessLost("ComfyUI does not know the prompt any more")
                if answered_at - listener.heard_at > self._settings.silence_seconds:
                    raise ProcessLost("the prompt makes no progress")
            if quick > 0:
                quick -= 1
                await asyncio.sleep(_QUICK_POLL_SECONDS)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.poll_seconds):
                    await listener.news.wait()
            if listener.news.is_set():
                listener.news.clear()
                quick = _QUICK_POLLS if listener.ended_at is not None else 0

    async def _stop(self, prompt_id: str, submission: asyncio.Task[None] | None) -> None:
        """See to it that nothing of the prompt runs: by asking, and if that does not help in time, by killing."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.stop_seconds):
                if submission is not None:
                    with contextlib.suppress(PromptRejected):
                        await submission
                while True:
                    # Again and again: one that comes just as a prompt begins is forgotten.
                    await self._client.cancel(prompt_id)
                    job = await self._client.job(prompt_id)
                    if job is None or job.ended:
                        break
                    await asyncio.sleep(_STOP_POLL_SECONDS)
        except (TimeoutError, Unreachable) as error:
            _log.warning("comfyui_killed", extra={"reason": type(error).__name__, "prompt": prompt_id})
            await self._process.kill()
            self._process.start_soon()
        _log.info("prompt_stopped", extra={"prompt": prompt_id, "seconds": round(time.monotonic() - began, 3)})


async def _died(process: ComfyUIProcess) -> ProcessLost:
    await process.read_out()
    reason = f"ComfyUI ended by itself: {process.last_words()}"
    return ProcessLost(reason, killed_by_the_system=process.killed_by_the_system)


@contextlib.asynccontextmanager
async def _running(listener: Listener) -> AsyncIterator[None]:
    """Listen while the block runs; it begins when the socket hears, or after two seconds."""
    task = asyncio.create_task(listener.run())
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LISTENING_SECONDS):
                await listener.listening.wait()
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("listener_failed", extra={"reason": repr(error)})
