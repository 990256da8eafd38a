"""What runs in a decoder process: files are named on its standard input, and described on its standard output.

It dies with the service: when nobody is left who could name a file, its input ends.
"""

import os
import select
import signal
import sys
import threading

import msgspec

from storage.decoding import LENGTH_BYTES, READY, Answer, Question
from storage.errors import Rejected
from storage.inspection import check_readable_by_workers, inspect, limit_resources


def main() -> None:
    """Answer until the input ends. What is unexpected ends the process, with the reason on standard error."""
    # Ctrl-C reaches every process of the group, and so may a stop; the service decides when its decoders end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    limit_resources()
    threading.Thread(target=_end_with_the_service, daemon=True).start()
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        body = msgspec.json.encode(_answer(msgspec.json.decode(line, type=Question)))
        sys.stdout.buffer.write(len(body).to_bytes(LENGTH_BYTES) + body)
        sys.stdout.buffer.flush()


def _end_with_the_service() -> None:
    """Also in the middle of a file: nobody would be left to end it when its time is up."""
    other_end = select.poll()
    # That it has gone is told without being asked for.
    other_end.register(sys.stdin.fileno(), 0)
    other_end.poll()
    os._exit(0)


def _answer(question: Question) -> Answer:
    try:
        inspection = inspect(question.path, question.kind, question.largest_pixels)
        if question.is_input:
            check_readable_by_workers(question.path)
        return Answer(inspection=inspection)
    except Rejected as rejection:
        return Answer(code=rejection.code, detail=rejection.detail)


if __name__ == "__main__":
    main()
