"""``python -m local_platform.runpod_emulator --port N --api-key KEY``: the emulator as a process."""

import argparse
import contextlib
import json
import os
import socket
from pathlib import Path

import uvloop

from local_platform.runpod_emulator.emulator import Emulator
from local_platform.runpod_emulator.server import EmulatorServer
from local_platform.runpod_emulator.settings import EmulatorSettings


def main() -> None:
    """Parse the arguments and serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m local_platform.runpod_emulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one")
    parser.add_argument("--api-key", required=True, help="what clients and workers must send")
    parser.add_argument("--time-scale", type=float, default=1.0, help="how much faster RunPod's own times pass")
    parser.add_argument(
        "--worker-poll-seconds", type=float, default=2.0, help="how long a worker's poll waits for a job"
    )
    parser.add_argument("--ready-file", type=Path, help="gets {url, pid} as JSON once the emulator listens")
    arguments = parser.parse_args()
    listener = socket.create_server((arguments.host, arguments.port))
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(listener, arguments))


async def _serve(listener: socket.socket, arguments: argparse.Namespace) -> None:
    settings = EmulatorSettings(time_scale=arguments.time_scale, worker_poll_seconds=arguments.worker_poll_seconds)
    emulator = Emulator(arguments.api_key, settings)
    if arguments.ready_file is not None:
        _write_ready_file(arguments.ready_file, f"http://{arguments.host}:{listener.getsockname()[1]}")
    await EmulatorServer(emulator).serve(sockets=[listener])


def _write_ready_file(ready_file: Path, url: str) -> None:
    """The socket listens already: a client that connects now is answered as soon as the server runs."""
    unfinished = ready_file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps({"url": url, "pid": os.getpid()}))
    unfinished.replace(ready_file)


if __name__ == "__main__":
    main()
