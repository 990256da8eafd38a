"""What went wrong in ComfyUI, and whose fault it is. Pure."""

import enum
from collections.abc import Mapping
from typing import Any, Final

from gpu_endpoint.failures import ExecutionFailed, InvalidInput, JobFailure, WorkerMisconfigured
from gpu_endpoint.redaction import Redactor
from gpu_endpoint.renderers.comfyui.client import ExecutionError, FoundError, NodeErrors, PromptRejected
from gpu_endpoint.renderers.comfyui.workflow import Workflow, model_files, node_named


class Trouble(enum.Enum):
    """What the driver can do something about."""

    GPU_MEMORY = "gpu_memory"
    HOST_MEMORY = "host_memory"
    DEAD_CONTEXT = "dead_context"


_OUT_OF_RANGE: Final = frozenset({"value_bigger_than_max", "value_smaller_than_min"})
_UNREADABLE_INPUTS: Final = ("UnidentifiedImageError", "InvalidDataError", "DecompressionBombError")
_DAMAGED_TYPES: Final = ("SafetensorError", "UnpicklingError")
_DAMAGED_WORDS: Final = (
    "deserializing header",
    "safetensors file is corrupt",  # by ComfyUI itself, which reads such files without the library where it has a GPU
    "PytorchStreamReader failed",
    "invalid load key",
)
_GPU_MEMORY_WORDS: Final = (
    "ran out of memory on your GPU",
    # cuBLAS and cuDNN, whose context lives on.
    "_STATUS_ALLOC_FAILED",
    # comfy-aimdo, which keeps weights on the GPU and on the host.
    "VRAM grow failed",
    "VRAM reservation failed",
    "VBAR",
)
_HOST_MEMORY_WORDS: Final = (
    "DefaultCPUAllocator",
    "HostBuffer allocation failed",
    "HostBuffer.extend failed",
    "HostBuffer.register failed",
)


def trouble_of(error: ExecutionError) -> Trouble | None:
    """Memory that ran out, in each of its shapes, or a GPU that is lost to this process; None for the rest."""
    kind, message = error.exception_type.rsplit(".", 1)[-1], error.exception_message
    if kind == "OutOfMemoryError" or any(words in message for words in _GPU_MEMORY_WORDS):
        return Trouble.GPU_MEMORY
    if kind == "AcceleratorError" and "out of memory" in message.lower():
        return Trouble.GPU_MEMORY
    if kind == "MemoryError" or any(words in message for words in _HOST_MEMORY_WORDS):
        return Trouble.HOST_MEMORY
    if kind == "AcceleratorError" or "CUDA error" in message or "cuDNN error" in message:
        return Trouble.DEAD_CONTEXT
    return None


def execution_failure(error: ExecutionError, workflow: Workflow, redact: Redactor) -> JobFailure:
    """The failure of a node, for any reason that ``trouble_of`` does not name."""
    node = node_named(workflow, error.node_id, error.node_type)
    kind = error.exception_type.rsplit(".", 1)[-1]
    detail = redact(f"{node}: {error.exception_type}: {error.exception_message}")
    if kind in _UNREADABLE_INPUTS and "Load" in node.class_type:
        return InvalidInput(detail)
    if kind in _DAMAGED_TYPES or any(words in error.exception_message for words in _DAMAGED_WORDS):
        return WorkerMisconfigured(redact(f"damaged model file{_files(workflow, error.node_id)}: {detail}"))
    if kind == "FileNotFoundError" and model_files(workflow.get(error.node_id, {"inputs": {}})):
        return WorkerMisconfigured(redact(f"missing model file{_files(workflow, error.node_id)}: {detail}"))
    return ExecutionFailed(detail)


def rejection_failure(
    rejected: PromptRejected, workflow: Workflow, parameters: Mapping[str, Any], redact: Redactor
) -> JobFailure:
    """The failure of a prompt that ComfyUI does not execute, or only in part."""
    for node_id, found in rejected.node_errors.items():
        for error in found.errors:
            if error.type in _OUT_OF_RANGE and _is_asked(error.extra_info.received_value, parameters):
                return InvalidInput(redact(_found(workflow, node_id, found, error)))
    details = [
        _found(workflow, node_id, found, error)
        for node_id, found in rejected.node_errors.items()
        for error in found.errors
    ]
    whole = rejected.error
    if not details and whole is not None:
        about = whole.extra_info
        class_type = f" {about.class_type}" if about.class_type else ""
        title = f" “{about.node_title}”" if about.node_title else ""
        details = [f"{whole.type}{class_type}{title}: {whole.message}"]
    return WorkerMisconfigured(redact("ComfyUI rejects the workflow: " + "; ".join(details)))


def _found(workflow: Workflow, node_id: str, found: NodeErrors, error: FoundError) -> str:
    node = node_named(workflow, node_id, found.class_type)
    value = ""
    if error.type == "value_not_in_list" and isinstance(error.extra_info.received_value, str):
        # A file or an option of the catalogue; what else an error received may be the user's.
        value = f" has no {error.extra_info.received_value}"
    return f"{node}: {error.type} {error.extra_info.input_name or ''}{value}".rstrip()


def _is_asked(value: object, parameters: Mapping[str, Any]) -> bool:
    return isinstance(value, int | float) and any(
        value == asked for asked in parameters.values() if isinstance(asked, int | float)
    )


def _files(workflow: Workflow, node_id: str) -> str:
    names = model_files(workflow[node_id]) if node_id in workflow else []
    return f" {', '.join(names)}" if names else ""
