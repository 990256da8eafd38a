"""``python -m gpu_endpoint``: the worker under RunPod's SDK loop. The only place that reads the environment."""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import cast

from gpu_endpoint.failures import WorkerMisconfigured, WorkerUnavailable
from gpu_endpoint.log_lines import configure_logging
from gpu_endpoint.machine import Machine
from gpu_endpoint.renderers import RENDERERS, Renderer

_log = logging.getLogger(__name__)


def main() -> None:
    """Serve jobs until told to stop. Ends with code 1 if ``RENDERER`` names no renderer, or one that does not start."""
    configure_logging()
    name = os.environ.get("RENDERER", "")
    if name not in RENDERERS:
        sys.exit(f"RENDERER is {name!r}; it must be one of: {', '.join(sorted(RENDERERS))}")
    try:
        renderer = RENDERERS[name](os.environ)
        asyncio.run(_open(renderer))
    except (ValueError, WorkerMisconfigured, WorkerUnavailable) as error:
        sys.exit(f"The renderer {name} does not start: {error}")
    import runpod.serverless

    from gpu_endpoint.handler import JobHandler

    _log.info("worker_started", extra={"renderer": name})
    runpod.serverless.start({"handler": JobHandler(renderer, Machine.started_now(os.environ)).handle})


async def _open(renderer: Renderer) -> None:
    """Import the SDK while the renderer starts."""
    # The SDK's own default is DEBUG, which writes a line for every poll. It reads this when it is imported.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")
    sdk = asyncio.create_task(asyncio.to_thread(_import_sdk))
    await renderer.open()
    await sdk


def _import_sdk() -> None:
    began = time.monotonic()
    with _without_measuring_the_processor():
        import runpod.serverless  # noqa: F401 - to have it imported

    import gpu_endpoint.handler  # noqa: F401

    _log.info("sdk_imported", extra={"seconds": round(time.monotonic() - began, 3)})


@contextlib.contextmanager
def _without_measuring_the_processor() -> Iterator[None]:
    """The SDK's debugger asks for the processor's name when it is imported, and prints it only when it is used.

    py-cpuinfo answers after two seconds: it starts an interpreter that measures clock rates on a whole core, beside
    ComfyUI that starts. The SDK goes on without an answer.
    """
    sys.modules["cpuinfo"] = cast(ModuleType, SimpleNamespace(get_cpu_info=dict))
    try:
        yield
    finally:
        del sys.modules["cpuinfo"]


if __name__ == "__main__":
    main()
