"""What runs in a decoder process: files are named on its standard input, and described on its standard output.

It dies with the service: when nobody is left who could name a file, its input ends.
"""

import signal
import sys

import msgspec

from storage.decoding import LENGTH_BYTES, READY, Answer, Question
from storage.errors import Rejected
from storage.inspection import check_readable_by_workers, inspect, limit_resources


def main() -> None:
    """Answer until the input ends. What is unexpected ends the process, with the reason on standard error."""
    # Ctrl-C in a terminal reaches every process of the group; the service decides when its decoders end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_resources()
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        body = msgspec.json.encode(_answer(msgspec.json.decode(line, type=Question)))
        sys.stdout.buffer.write(len(body).to_bytes(LENGTH_BYTES) + body)
        sys.stdout.buffer.flush()


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
