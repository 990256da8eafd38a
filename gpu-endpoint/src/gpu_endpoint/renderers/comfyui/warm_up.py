"""A tiny order of each pinned model before the first job, so that its weights are loaded and its kernels chosen."""

import asyncio
import logging
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from PIL import Image

from gpu_endpoint.failures import JobFailure
from gpu_endpoint.job import RenderJob, RequestedOutput
from gpu_endpoint.model_store import ModelStore
from gpu_endpoint.progress import ReportProgress
from gpu_endpoint.renderers.renderer import RenderedFile

_PICTURE_PIXELS: Final = 256
_NOWHERE: Final = "http://warm-up.invalid/"
"""Nothing is uploaded."""

Render = Callable[[RenderJob, Sequence[Path], Path, ReportProgress], Awaitable[RenderedFile]]

_log = logging.getLogger(__name__)


class WarmUp(msgspec.Struct, frozen=True):
    """The smallest order of a model, as the catalogue binds it. ``images`` are the pictures that it loads."""

    kind: Literal["video", "image"]
    extension: str
    workflow: dict[str, Any]
    images: tuple[str, ...] = ()


def read_warm_ups(path: Path) -> dict[str, WarmUp]:
    """By model. Raises ValueError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, WarmUp])
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"{path}: {error}") from error


async def warm_up(render: Render, models: ModelStore) -> None:
    """Render the pinned models' smallest orders, one after the other. What fails is logged, and the next one is tried.

    A model waits until its files are on the local disk. All together take ``start_seconds`` at most.
    """
    pinned = models.settings.pinned
    if not pinned:
        _log.info("warm_up_skipped", extra={"reason": "no_pinned_model"})
        return
    known = read_warm_ups(models.settings.warm_ups)
    ends_at = time.monotonic() + models.settings.start_seconds
    for model in pinned:
        if model not in models.usable or model not in known:
            reason = "model_not_usable" if model not in models.usable else "no_workflow"
            _log.warning("warm_up_skipped", extra={"model": model, "reason": reason})
            continue
        copied = await asyncio.to_thread(models.wait_for, model, max(0.0, ends_at - time.monotonic()))
        began = time.monotonic()
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + ends_at - began):
                await _render(render, model, known[model])
        except (JobFailure, TimeoutError) as error:
            detail = error.detail if isinstance(error, JobFailure) else "no time is left before the first job"
            _log.error("warm_up_failed", extra={"model": model, "reason": detail})
        else:
            seconds = round(time.monotonic() - began, 3)
            _log.info("model_warmed_up", extra={"model": model, "seconds": seconds, "from_local_disk": copied})


async def _render(render: Render, model: str, order: WarmUp) -> None:
    with tempfile.TemporaryDirectory(prefix="warm-up-") as name:
        directory = Path(name)
        images = [directory / image for image in order.images]
        for image in images:
            Image.new("RGB", (_PICTURE_PIXELS, _PICTURE_PIXELS), "grey").save(image)
        job = RenderJob(
            generation_id=f"warm-up-{model}",
            attempt_id=str(uuid.uuid4()),
            attempt_number=1,
            kind=order.kind,
            model_id=model,
            parameters={},
            workflow=order.workflow,
            output=RequestedOutput(
                object_key=f"warm-up/output.{order.extension}", put_url=_NOWHERE, content_type="", max_size_bytes=1
            ),
        )
        await render(job, images, directory, lambda _: None)
