"""What the auditor prints, as text."""

import io

from rich.console import RenderableType

from auditor.terminal import print_to


def as_text(part: RenderableType) -> str:
    """What a pipe would get, without the last end of line."""
    stream = io.StringIO()
    print_to(stream, part)
    return stream.getvalue().removesuffix("\n")
