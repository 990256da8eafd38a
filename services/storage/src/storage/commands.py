"""The operator's command ``archive``. It needs only ``STORAGE_DATABASE_URL``, and the service may run meanwhile."""

import argparse
from typing import TYPE_CHECKING

from messaging.command_line import add_age, run_steps
from storage.archiving import MIN_AGE_DAYS, Dropped, drop_old_verifications

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parsers(commands: "Subparsers") -> None:
    """Describe the command and its arguments."""
    archiving = commands.add_parser("archive", help="drop verifications that were answered long ago")
    add_age(archiving, MIN_AGE_DAYS, "verifications that were answered so long ago", kept="verifications")


async def run(arguments: argparse.Namespace) -> int:
    """Run the command that was typed; returns the exit code."""
    return await run_steps(
        "storage",
        lambda engine: drop_old_verifications(engine, arguments.older_than_days),
        Dropped(),
        lambda done: f"{done.verifications} verifications",
        "dropped",
    )
