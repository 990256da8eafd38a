"""The body of ``/run``: the job as RunPod and a worker read it. Our worker's side is ``gpu_endpoint.job``."""

from typing import Any, Final
from uuid import UUID

import msgspec

from contracts.values import Kind

INPUT_SCHEMA: Final = 1


class InputImage(msgspec.Struct, frozen=True, kw_only=True):
    """A picture to start from. ``name`` is what the workflow calls it."""

    name: str
    url: str


class RequestedOutput(msgspec.Struct, frozen=True, kw_only=True):
    """Where the one file goes, and what it may be at most."""

    object_key: str
    put_url: str
    content_type: str
    max_size_bytes: int


class JobInput(msgspec.Struct, frozen=True, kw_only=True):
    """The job as the worker reads it. ``parameters`` are complete, and ``workflow`` is bound to them."""

    schema: int = INPUT_SCHEMA
    generation_id: UUID
    attempt_id: UUID
    attempt_number: int
    kind: Kind
    model_id: str
    parameters: dict[str, Any]
    workflow: dict[str, Any]
    images: tuple[InputImage, ...]
    output: RequestedOutput
    progress_url: str


class StockImage(msgspec.Struct, frozen=True, kw_only=True):
    """A picture to start from, as the stock ``worker-comfyui`` takes it. ``image`` is base64."""

    name: str
    image: str


class StockInput(msgspec.Struct, frozen=True, kw_only=True):
    """What the stock ``worker-comfyui`` 5 is told. It returns the file, and reports no progress."""

    workflow: dict[str, Any]
    images: tuple[StockImage, ...]


class JobPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """Bounds that RunPod keeps, in milliseconds. ``ttl`` counts from the submission, waiting included."""

    execution_timeout: int
    ttl: int


class JobRequest(msgspec.Struct, frozen=True):
    """The body of ``/run``. RunPod posts the result to ``webhook``."""

    input: JobInput | StockInput
    webhook: str
    policy: JobPolicy


class KeepAlive(msgspec.Struct, frozen=True):
    """What an idle endpoint is told, so that RunPod does not switch it off. Our worker answers at once."""

    keep_alive: bool = True


class KeepAliveRequest(msgspec.Struct, frozen=True):
    """The body of ``/run`` for it. Nobody waits for its result."""

    policy: JobPolicy
    input: KeepAlive = KeepAlive()
