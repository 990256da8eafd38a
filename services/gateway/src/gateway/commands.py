"""The operator's command ``archive``. It needs only ``GATEWAY_DATABASE_URL``, and the service may run meanwhile."""

import argparse
from typing import TYPE_CHECKING, Final

from gateway.archiving import MIN_AGE_DAYS, Archived, archive
from messaging.command_line import run_steps

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_AGE_DAYS: Final = 90


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
    """Run the command that was typed; returns the exit code."""
    return await run_steps(
        "gateway", lambda engine: archive(engine, arguments.older_than_days), Archived(), _described, "archived"
    )


def _described(done: Archived) -> str:
    return f"{done.entries} entries of {done.orders} orders; {done.balance_entries} old events of balances dropped"


def _age(argument: str) -> int:
    days = int(argument)
    if days < MIN_AGE_DAYS:
        raise argparse.ArgumentTypeError(f"entries stay for {MIN_AGE_DAYS} days or more")
    return days
