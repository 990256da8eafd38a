"""The program of a decoder process: it reads requests on standard input and writes results to standard output.

It exits when its input ends, which happens when the service exits.
"""

import errno
import os
import select
import signal
import sys
import threading
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from storage.decoding import (
    BACKGROUND,
    LENGTH_BYTES,
    READY,
    DecodeRequest,
    DecodeResult,
    Inspection,
    Marking,
    RenderedPreview,
    Signature,
)
from storage.errors import Rejected, Unmarkable
from storage.inspection import container_of_kind, inspect, inspect_upload, limit_resources
from storage.marking import Marker
from storage.preview_rendering import render_previews

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
"""Errors of the disk, which say nothing about a file."""
NICENESS: Final = 10
"""A tenth of the processor where others want it: previews of a busy day come late, and not never."""


def main() -> None:
    """Serve requests until the input ends. An unexpected error ends the process with its traceback on stderr."""
    # Ctrl-C and a stop can reach the whole process group. The service alone decides when its decoders exit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    limit_resources()
    if BACKGROUND in sys.argv:
        # Only now: until here it has loaded its libraries, which a busy machine would draw out tenfold, too.
        os.nice(NICENESS)
    threading.Thread(target=_exit_with_the_service, daemon=True).start()
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        _write(_decode(msgspec.json.decode(line, type=DecodeRequest)))


def _write(result: DecodeResult) -> None:
    body = msgspec.json.encode(result)
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
        if request.previews:
            return DecodeResult(previews=_previews(request))
        if request.marking is not None:
            return DecodeResult(inspection=_mark(request, request.marking))
        read = inspect_upload if request.is_input else inspect
        return DecodeResult(inspection=read(request.path, request.kind, request.max_pixels))
    except Rejected as rejection:
        return DecodeResult(code=rejection.code, detail=rejection.detail)
    except Unmarkable as reason:
        return DecodeResult(detail=str(reason), unmarkable=True)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        return DecodeResult(no_space=True)


def _mark(request: DecodeRequest, marking: Marking) -> Inspection:
    """Mark a file, and decode what is delivered: the marked one. Raises ``Unmarkable`` only for a good file."""
    marker = _marker(marking.certificates)
    if marking.marked_path is None:
        inspection = inspect(request.path, request.kind, request.max_pixels)
    else:
        container = container_of_kind(request.path, request.kind)
        try:
            marker.mark(Path(request.path), container.name, Path(marking.marked_path))
            inspection = inspect(marking.marked_path, request.kind, request.max_pixels)
        except (Unmarkable, Rejected) as error:
            # A bad file is rejected for what it is. If it is good, the mark does not go on it, or breaks it.
            inspect(request.path, request.kind, request.max_pixels)
            raise Unmarkable(str(error)) from error
    if not inspection.poster:
        return inspection
    return msgspec.structs.replace(inspection, poster=marker.mark_picture(inspection.poster, "jpg"))


def _previews(request: DecodeRequest) -> tuple[RenderedPreview, ...]:
    """Small pictures of an output, marked if the output is."""
    rendered = render_previews(request.path, request.kind, request.max_pixels)
    if request.marking is None:
        return rendered
    marker = _marker(request.marking.certificates)
    return tuple(msgspec.structs.replace(one, body=marker.mark_picture(one.body, "webp")) for one in rendered)


@lru_cache(maxsize=1)
def _marker(certificates: str) -> Marker:
    return Marker(certificates, _signed_by_the_service)


def _signed_by_the_service(claim: bytes) -> bytes:
    """Called by the library in the middle of a file."""
    _write(DecodeResult(to_sign=claim))
    return msgspec.json.decode(sys.stdin.buffer.readline(), type=Signature).signature


if __name__ == "__main__":
    main()
