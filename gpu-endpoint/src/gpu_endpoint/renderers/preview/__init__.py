"""The renderer for machines without a GPU: a real, labelled clip or picture drawn from the prompt, in seconds."""

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from gpu_endpoint.job import RenderJob
from gpu_endpoint.progress import INTERVAL_SECONDS, Progress, ReportProgress
from gpu_endpoint.renderers.preview.encoding import write_clip, write_picture
from gpu_endpoint.renderers.preview.parameters import PreviewParameters, parse_parameters
from gpu_endpoint.renderers.preview.scene import Scene, open_input
from gpu_endpoint.renderers.previews import small_jpeg_of
from gpu_endpoint.renderers.renderer import RenderedFile
from gpu_endpoint.renderers.stoppable import StopFlag, run_stoppable

_RENDERING_PERCENT: Final = 95
"""Where drawing ends and uploading begins, on the scale of the whole job."""


class PreviewRenderer:
    """Draws instead of dreaming. The same prompt, seed and size give the same pixels."""

    name = "preview"

    async def open(self) -> None:
        """It is always ready."""

    async def render(
        self, job: RenderJob, images: Sequence[Path], directory: Path, report_progress: ReportProgress
    ) -> RenderedFile:
        """Draw and encode in a thread that looks for a stop before each frame. Raises InvalidInput."""
        return await run_stoppable(functools.partial(_render, job, images, directory, report_progress))


def _render(
    job: RenderJob, images: Sequence[Path], directory: Path, report_progress: ReportProgress, stop: StopFlag
) -> RenderedFile:
    parameters = parse_parameters(job)
    background = open_input(images[0]) if images else None
    scene = Scene(parameters, job.model_id, background)
    comment = (
        f"Reelhouse preview: drawn from the prompt, not rendered by a model; "
        f"model={job.model_id} seed={parameters.seed} generation={job.generation_id}"
    )
    if job.kind == "image":
        path = directory / "output.png"
        report_progress(Progress(percent=0, stage="rendering"))
        write_picture(path, scene, comment)
        return RenderedFile(path=path, facts={"frames": 1})
    path = directory / "output.mp4"
    preview, shown_at = small_jpeg_of(scene.frame(0)), time.monotonic()
    for done in write_clip(path, scene, parameters, comment):
        progress = _progress(done, parameters)
        if done < parameters.frames:
            if time.monotonic() - shown_at > INTERVAL_SECONDS:
                preview, shown_at = small_jpeg_of(scene.frame(done)), time.monotonic()
            progress = msgspec.structs.replace(progress, preview=preview)
        report_progress(progress)
        stop.check()
    return RenderedFile(path=path, facts={"frames": parameters.frames})


def _progress(frames_done: int, parameters: PreviewParameters) -> Progress:
    share = frames_done / parameters.frames
    if frames_done == parameters.frames:
        return Progress(percent=_RENDERING_PERCENT, stage="encoding", step=parameters.steps, steps=parameters.steps)
    return Progress(
        percent=int(share * _RENDERING_PERCENT),
        stage="rendering",
        step=None if parameters.steps is None else int(share * parameters.steps),
        steps=parameters.steps,
    )
