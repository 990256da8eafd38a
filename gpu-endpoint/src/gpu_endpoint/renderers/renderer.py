"""What the worker needs of a renderer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gpu_endpoint.job import RenderJob
from gpu_endpoint.progress import ReportProgress


@dataclass(frozen=True, kw_only=True)
class RenderedFile:
    """A finished file inside the job's directory. ``facts`` are added to the job's report."""

    path: Path
    facts: Mapping[str, int | float | str] = field(default_factory=dict)


class Renderer(Protocol):
    """Anything that renders. One instance serves all jobs of the worker. ``name`` stands in every report."""

    name: str

    async def open(self) -> None:
        """Get ready, before the first job is taken. It may run in another event loop than the jobs.

        Raises WorkerUnavailable.
        """

    async def render(
        self, job: RenderJob, images: Sequence[Path], directory: Path, report_progress: ReportProgress
    ) -> RenderedFile:
        """Render ``job`` into ``directory``, which is removed afterwards.

        ``images`` are the fetched input pictures, in the job's order. When cancelled it must stop for real (its thread,
        its process, its remote prompt) before it lets CancelledError out. Raises JobFailure for known reasons.
        """
