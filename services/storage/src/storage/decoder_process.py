"""The program of a decoder process: it reads requests on standard input and writes results to standard output.

It exits when its input ends, which happens when the service exits.
"""

import os
import select
import signal
import sys
import threading

import msgspec

from storage.decoding import LENGTH_BYTES, READY, DecodeRequest, DecodeResult
from storage.errors import Rejected
from storage.inspection import inspect, inspect_upload, limit_resources


def main() -> None:
    """Serve requests until the input ends. An unexpected error ends the process with its traceback on stderr."""
    # Ctrl-C and a stop can reach the whole process group. The service alone decides when its decoders exit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    limit_resources()
    threading.Thread(target=_exit_with_the_service, daemon=True).start()
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        body = msgspec.json.encode(_decode(msgspec.json.decode(line, type=DecodeRequest)))
        sys.stdout.buffer.write(len(body).to_bytes(LENGTH_BYTES) + body)
        sys.stdout.buffer.flush()


def _exit_with_the_service() -> None:
    """Exit at once when the service is gone, also in the middle of a file: no other process would enforce the time."""
    standard_input = select.poll()
    # No event mask: a hang-up is always reported.
    standard_input.register(sys.stdin.fileno(), 0)
    standard_input.poll()
    os._exit(0)


def _decode(request: DecodeRequest) -> DecodeResult:
    try:
        read = inspect_upload if request.is_input else inspect
        return DecodeResult(inspection=read(request.path, request.kind, request.max_pixels))
    except Rejected as rejection:
        return DecodeResult(code=rejection.code, detail=rejection.detail)


if __name__ == "__main__":
    main()
