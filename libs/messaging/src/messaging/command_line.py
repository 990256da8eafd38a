"""How an operator's command ends: with its own exit code, and with one line where the database is away."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final, NoReturn, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.message import Service
from messaging.database import DATABASE_ERRORS, is_contended, is_unavailable
from service_runtime.database import engine_for
from service_runtime.settings import database_url_from_environment

SAY_EVERY_SECONDS: Final = 5.0
DEFAULT_AGE_DAYS: Final = 90
Done = TypeVar("Done")


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


def add_age(archiving: argparse.ArgumentParser, least_days: int, what: str, kept: str) -> None:
    """Let the command that archives take ``--older-than-days``, of ``what``; less than ``least_days`` is refused.

    ``kept`` is what stays for so long.
    """

    def age(argument: str) -> int:
        days = int(argument)
        if days < least_days:
            raise argparse.ArgumentTypeError(f"{kept} stay for {least_days} days or more")
        return days

    archiving.add_argument(
        "--older-than-days", type=age, default=DEFAULT_AGE_DAYS, help=f"{what} (default: {DEFAULT_AGE_DAYS})"
    )


async def run_steps(
    service: Service,
    steps: Callable[[AsyncEngine], AsyncIterator[Done]],
    done: Done,
    describe: Callable[[Done], str],
    past: str,
) -> int:
    """Run a command of short transactions, which yields after each what is ``done``, and say how far it is.

    Returns the exit code. It is 1 if the database was away, or let a step wait too long: what is done stays so.
    ``past`` says what the command has done.
    """
    engine = engine_for(
        database_url_from_environment(service), application_name=f"reelhouse-{service}-archive", pool_size=1
    )
    said_at = time.monotonic()
    try:
        async for done in steps(engine):
            if time.monotonic() - said_at >= SAY_EVERY_SECONDS:
                said_at = time.monotonic()
                _say("so far", describe(done))
    except DATABASE_ERRORS as error:
        if not is_unavailable(error):
            raise
        _say("so far", describe(done))
        sys.stderr.write(f"not finished: {unavailability(error)}; what is {past} stays so: repeat the command\n")
        return 1
    finally:
        await engine.dispose()
    _say(past, describe(done))
    return 0


def _say(what: str, done: str) -> None:
    sys.stdout.write(f"{what}: {done}\n")
    sys.stdout.flush()


def unavailability(error: BaseException) -> str:
    """What an operator reads of an error for which ``is_unavailable`` holds."""
    said = str(getattr(error, "orig", None) or error).partition("\n")[0] or type(error).__name__
    if is_contended(error):
        return f"the command waited too long for the database, mostly for a lock of another session ({said})"
    return f"the database is not available ({said})"
