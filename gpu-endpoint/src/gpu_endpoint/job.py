"""What a job says, parsed into types. The shape is described in the README under "Input"."""

from typing import Annotated, Any, Final, Literal

import msgspec

from gpu_endpoint.failures import MalformedJob

SCHEMA: Final = 1

Address = Annotated[str, msgspec.Meta(pattern=r"^https?://")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class InputImage(msgspec.Struct, frozen=True, kw_only=True):
    """A picture to start from. ``name`` is what the workflow calls it."""

    name: FileName
    url: Address


class RequestedOutput(msgspec.Struct, frozen=True, kw_only=True):
    """Where the one file goes, and what it may be at most."""

    object_key: str
    put_url: Address
    content_type: str
    max_size_bytes: Annotated[int, msgspec.Meta(gt=0)]


class RenderJob(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at one generation. ``parameters`` are complete: no renderer has defaults of its own."""

    generation_id: str
    attempt_id: str
    attempt_number: int
    kind: Literal["video", "image"]
    model_id: str
    parameters: dict[str, Any]
    workflow: dict[str, Any] | None = None
    images: tuple[InputImage, ...] = ()
    output: RequestedOutput
    progress_url: Address | None = None


class _Envelope(msgspec.Struct):
    schema: int


def parse_job(job_input: object) -> RenderJob:
    """Read a job's ``input``. Raises MalformedJob, naming the field; values are never repeated in the reason."""
    try:
        schema = msgspec.convert(job_input, _Envelope).schema
        if schema != SCHEMA:
            raise MalformedJob(f"schema {schema} is not understood by this worker, which speaks {SCHEMA}")
        return msgspec.convert(job_input, RenderJob)
    except msgspec.ValidationError as error:
        raise MalformedJob(str(error)) from error
