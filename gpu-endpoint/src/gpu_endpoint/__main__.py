"""``python -m gpu_endpoint``: the worker under RunPod's SDK loop. The only place that reads the environment."""

import asyncio
import logging
import os
import sys

from gpu_endpoint.failures import WorkerUnavailable
from gpu_endpoint.handler import JobHandler
from gpu_endpoint.log_lines import configure_logging
from gpu_endpoint.renderers import RENDERERS

_log = logging.getLogger(__name__)


def main() -> None:
    """Serve jobs until told to stop. Ends with code 1 if ``RENDERER`` names no renderer, or one that does not start."""
    configure_logging()
    name = os.environ.get("RENDERER", "")
    if name not in RENDERERS:
        sys.exit(f"RENDERER is {name!r}; it must be one of: {', '.join(sorted(RENDERERS))}")
    try:
        renderer = RENDERERS[name](os.environ)
        asyncio.run(renderer.open())
    except (ValueError, WorkerUnavailable) as error:
        sys.exit(f"The renderer {name} does not start: {error}")
    # The SDK's own default is DEBUG, which writes a line for every poll. It reads this when it is imported.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")
    import runpod.serverless

    _log.info("worker_started", extra={"renderer": name})
    runpod.serverless.start({"handler": JobHandler(renderer).handle})


if __name__ == "__main__":
    main()
