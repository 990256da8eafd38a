"""What a person at the terminal sees: lines, tables, and the logs of the processes. Colours only in a terminal."""

import asyncio
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_COLOURS: Final = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")
_FOLLOW_SECONDS: Final = 0.1
_MAX_READ_BYTES: Final = 1 << 20
_UNBOUNDED_WIDTH: Final = 1_000_000
"""A line is as long as it needs to be: a pipe has no width, and a terminal wraps by itself."""
_TRAILING_SPACES: Final = re.compile(r" +((?:\x1b\[[0-9;]*m)*)$", re.MULTILINE)


def say(*parts: RenderableType) -> None:
    """Print texts side by side as one line, or a table."""
    console = Console(width=_UNBOUNDED_WIDTH, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(*parts, sep="", soft_wrap=True)
    sys.stdout.write(_TRAILING_SPACES.sub(r"\1", capture.get()))
    sys.stdout.flush()


def bold(text: str) -> Text:
    """For headings."""
    return Text(text, style="bold")


def red(text: str) -> Text:
    """For failures."""
    return Text(text, style="red")


def green(text: str) -> Text:
    """For what holds."""
    return Text(text, style="green")


def dim(text: str) -> Text:
    """For details."""
    return Text(text, style="dim")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Columns as wide as their widest cell."""
    grid = Table(*headings, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        grid.add_row(*row)
    return grid


def indented(part: RenderableType) -> Padding:
    """The same, two spaces to the right."""
    return Padding.indent(part, 2)


class LogFollower:
    """Prints the lines that are appended to log files, each after the name of its process.

    The processes write into files. So none of them waits for a slow terminal, and no line is lost if the supervisor
    dies.
    """

    def __init__(self, log_files: Mapping[str, Path]) -> None:
        width = max((len(name) for name in log_files), default=0)
        self._followed = {
            path: Text(f"{name.ljust(width)} |", style=_COLOURS[index % len(_COLOURS)])
            for index, (name, path) in enumerate(log_files.items())
        }
        self._positions = {path: path.stat().st_size if path.exists() else 0 for path in self._followed}

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            while True:
                self._print_new_lines()
                await asyncio.sleep(_FOLLOW_SECONDS)
        finally:
            self._print_new_lines()

    def _print_new_lines(self) -> None:
        for path, prefix in self._followed.items():
            if not path.exists():
                continue
            with path.open("rb") as log:
                log.seek(self._positions[path])
                appended = log.read(_MAX_READ_BYTES)
            is_full = len(appended) == _MAX_READ_BYTES
            complete = appended[: appended.rfind(b"\n") + 1] or (appended if is_full else b"")
            self._positions[path] += len(complete)
            for line in complete.decode("utf-8", "replace").splitlines():
                say(prefix, f" {line}")
