"""How an operator's command ends: with its own exit code, and with one line where the database is away."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

from messaging.database import DATABASE_ERRORS, is_contended, is_unavailable


def run_command(command: Coroutine[Any, Any, int]) -> NoReturn:
    """Run ``command`` and end the process with its exit code, or with 1 and a line if the database is not available.

    Errors of the command itself are raised: they are ours, and their traceback says where.
    """
    try:
        code = asyncio.run(command)
    except DATABASE_ERRORS as error:
        if not is_unavailable(error):
            raise
        sys.stderr.write(f"{unavailability(error)}: repeat the command later\n")
        code = 1
    sys.exit(code)


def unavailability(error: BaseException) -> str:
    """What an operator reads of an error for which ``is_unavailable`` holds."""
    said = str(getattr(error, "orig", None) or error).partition("\n")[0] or type(error).__name__
    if is_contended(error):
        return f"the command waited too long for the database, mostly for a lock of another session ({said})"
    return f"the database is not available ({said})"
