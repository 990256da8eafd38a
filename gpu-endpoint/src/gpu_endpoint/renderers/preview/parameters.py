"""The parameters that the preview renderer looks at, with the bounds of what it can draw."""

from fractions import Fraction
from typing import Annotated, Final

import msgspec

from gpu_endpoint.failures import InvalidInput
from gpu_endpoint.job import RenderJob

MAX_FRAMES: Final = 7200
"""A minute at 120 frames per second; keeps one job from holding the worker for hours."""

_Side = Annotated[int, msgspec.Meta(ge=16, le=4096)]


class _Common(msgspec.Struct, frozen=True, kw_only=True):
    width: _Side
    height: _Side
    prompt: str = ""
    negative_prompt: str | None = None
    seed: int = 0
    steps: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _Timed(_Common, frozen=True, kw_only=True):
    duration_seconds: Annotated[float, msgspec.Meta(gt=0, le=600)]
    frames_per_second: Annotated[float, msgspec.Meta(ge=1, le=120)] = 24.0


class PreviewParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Checked parameters. Sizes in pixels; a picture is one frame."""

    width: int
    height: int
    prompt: str
    negative_prompt: str
    seed: int
    steps: int | None
    frames: int
    frame_rate: Fraction


def parse_parameters(job: RenderJob) -> PreviewParameters:
    """Raises InvalidInput, naming the parameter and what it must be."""
    try:
        given = msgspec.convert(job.parameters, _Timed if job.kind == "video" else _Common)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"parameters: {error}") from error
    frame_rate, frames = Fraction(1), 1
    if isinstance(given, _Timed):
        frame_rate = Fraction(given.frames_per_second).limit_denominator(1001)
        frames = max(1, round(given.duration_seconds * frame_rate))
        if given.width % 2 or given.height % 2:
            raise InvalidInput("parameters: width and height of a clip must be even")
        if frames > MAX_FRAMES:
            raise InvalidInput(f"parameters: {frames} frames are too many; {MAX_FRAMES} are possible")
    return PreviewParameters(
        width=given.width,
        height=given.height,
        prompt=given.prompt,
        negative_prompt=given.negative_prompt or "",
        seed=given.seed,
        steps=given.steps,
        frames=frames,
        frame_rate=frame_rate,
    )
