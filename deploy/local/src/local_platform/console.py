"""What a person at the terminal sees: prefixed logs in colours, and one table of what runs where."""

import asyncio
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_FOLLOW_SECONDS = 0.1
_LONGEST_READ_BYTES = 1 << 20


def say(text: str = "") -> None:
    """One line of our own on the terminal."""
    print(text, flush=True)


def bold(text: str) -> str:
    """Emphasised, where the terminal can."""
    return _painted(text, "1")


def red(text: str) -> str:
    """For what went wrong."""
    return _painted(text, "31")


def green(text: str) -> str:
    """For what held."""
    return _painted(text, "32")


def dim(text: str) -> str:
    """For what matters less."""
    return _painted(text, "2")


def _painted(text: str, code: str) -> str:
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() else text


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Plain columns, as wide as they need to be."""
    cells = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([bold(lines[0]), *lines[1:]])


class LogFollower:
    """Prints what is appended to the log files, each line with the name of its process.

    The processes write straight into files, so none of them ever waits for a slow terminal, and nothing is lost when
    the supervisor goes.
    """

    def __init__(self, log_files: Mapping[str, Path]) -> None:
        width = max((len(name) for name in log_files), default=0)
        self._followed = {
            path: _painted(f"{name.ljust(width)} |", str(_COLOURS[index % len(_COLOURS)]))
            for index, (name, path) in enumerate(log_files.items())
        }
        self._positions = {path: path.stat().st_size if path.exists() else 0 for path in self._followed}

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            while True:
                self._print_news()
                await asyncio.sleep(_FOLLOW_SECONDS)
        finally:
            self._print_news()

    def _print_news(self) -> None:
        for path, prefix in self._followed.items():
            if not path.exists():
                continue
            with path.open("rb") as log:
                log.seek(self._positions[path])
                news = log.read(_LONGEST_READ_BYTES)
            complete = news[: news.rfind(b"\n") + 1] or (news if len(news) == _LONGEST_READ_BYTES else b"")
            self._positions[path] += len(complete)
            for line in complete.decode("utf-8", "replace").splitlines():
                say(f"{prefix} {line}")
