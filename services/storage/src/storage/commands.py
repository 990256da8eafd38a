"""The operator's command ``archive``. It needs only ``STORAGE_DATABASE_URL``, and the service may run meanwhile."""

import argparse
from typing import TYPE_CHECKING, Final

from messaging.command_line import run_steps
from storage.archiving import MIN_AGE_DAYS, Dropped, drop_old_verifications

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_AGE_DAYS: Final = 90


def add_parsers(commands: "Subparsers") -> None:
    """Describe the command and its arguments."""
    archiving = commands.add_parser("archive", help="drop verifications that were answered long ago")
    archiving.add_argument(
        "--older-than-days",
        type=_age,
        default=DEFAULT_AGE_DAYS,
        help=f"verifications that were answered so long ago (default: {DEFAULT_AGE_DAYS})",
    )


async def run(arguments: argparse.Namespace) -> int:
    """Run the command that was typed; returns the exit code."""
    return await run_steps(
        "storage",
        lambda engine: drop_old_verifications(engine, arguments.older_than_days),
        Dropped(),
        lambda done: f"{done.verifications} verifications",
        "dropped",
    )


def _age(argument: str) -> int:
    days = int(argument)
    if days < MIN_AGE_DAYS:
        raise argparse.ArgumentTypeError(f"verifications stay for {MIN_AGE_DAYS} days or more")
    return days
