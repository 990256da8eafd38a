"""The operator's command ``archive``. It needs only ``GATEWAY_DATABASE_URL``, and the service may run meanwhile."""

import argparse
import sys
import time
from typing import TYPE_CHECKING, Final

from gateway.archiving import MIN_AGE_DAYS, Archived, archive
from messaging.command_line import unavailability
from messaging.database import DATABASE_ERRORS, is_unavailable
from service_runtime.database import engine_for
from service_runtime.settings import database_url_from_environment

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_AGE_DAYS: Final = 90
SAY_EVERY_SECONDS: Final = 5.0


def add_parsers(commands: "Subparsers") -> None:
    """Describe the command and its arguments."""
    archiving = commands.add_parser("archive", help="move the timelines of old orders into one row each")
    archiving.add_argument(
        "--older-than-days",
        type=_age,
        default=DEFAULT_AGE_DAYS,
        help=f"orders on which nothing has happened for so long (default: {DEFAULT_AGE_DAYS})",
    )


async def run(arguments: argparse.Namespace) -> int:
    """Run the command that was typed; returns the exit code.

    It is 1 if the database was away, or let a step wait too long: what earlier steps archived stays so.
    """
    dsn = database_url_from_environment("gateway")
    engine = engine_for(dsn, application_name="reelhouse-gateway-archive", pool_size=1)
    done, said_at = Archived(), time.monotonic()
    try:
        async for done in archive(engine, arguments.older_than_days):
            if time.monotonic() - said_at >= SAY_EVERY_SECONDS:
                said_at = time.monotonic()
                _say("so far", done)
    except DATABASE_ERRORS as error:
        if not is_unavailable(error):
            raise
        _say("so far", done)
        sys.stderr.write(f"not finished: {unavailability(error)}; what is archived stays so: repeat the command\n")
        return 1
    finally:
        await engine.dispose()
    _say("archived", done)
    return 0


def _say(what: str, done: Archived) -> None:
    sys.stdout.write(
        f"{what}: {done.entries} entries of {done.orders} orders;"
        f" {done.balance_entries} old events of balances dropped\n"
    )
    sys.stdout.flush()


def _age(argument: str) -> int:
    days = int(argument)
    if days < MIN_AGE_DAYS:
        raise argparse.ArgumentTypeError(f"entries stay for {MIN_AGE_DAYS} days or more")
    return days
