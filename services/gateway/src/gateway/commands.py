"""The operator's command ``archive``. It needs only ``GATEWAY_DATABASE_URL``, and the service may run meanwhile."""

import argparse
from typing import TYPE_CHECKING

from gateway.archiving import MIN_AGE_DAYS, Archived, archive
from messaging.command_line import add_age, run_steps

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parsers(commands: "Subparsers") -> None:
    """Describe the command and its arguments."""
    archiving = commands.add_parser("archive", help="move the timelines of old orders into one row each")
    add_age(archiving, MIN_AGE_DAYS, "orders on which nothing has happened for so long", kept="entries")


async def run(arguments: argparse.Namespace) -> int:
    """Run the command that was typed; returns the exit code."""
    return await run_steps(
        "gateway", lambda engine: archive(engine, arguments.older_than_days), Archived(), _described, "archived"
    )


def _described(done: Archived) -> str:
    return f"{done.entries} entries of {done.orders} orders; {done.balance_entries} old events of balances dropped"
