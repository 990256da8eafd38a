"""What an operator does by hand: list and decide reviews, request refunds. Every act names its actor."""

import argparse
import sys
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

from messaging.ids import new_id
from messaging.transaction import Transaction, Transactions
from payments import queries
from payments.errors import CommandRefused
from payments.handlers.refunds import request_refund
from payments.handlers.reviews import resolve_review
from payments.settings import Settings
from service_runtime.database import create_engine

Command = Callable[[Transaction, argparse.Namespace], Awaitable[str]]


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the operator's commands and their arguments."""
    commands.add_parser("stripe-events", help="print the events that Stripe's webhook endpoint must send")
    commands.add_parser("reviews", help="list what waits for a person's decision")
    resolve = commands.add_parser("resolve", help="decide a review")
    resolve.add_argument("--review", type=UUID, required=True)
    resolve.add_argument("--resolution", choices=["credited", "dismissed"], required=True)
    refund = commands.add_parser("refund", help="send money back, and take the credits")
    refund.add_argument("--payment", type=UUID, required=True)
    refund.add_argument("--amount-cents", type=int, required=True)
    refund.add_argument("--manual", action="store_true", help="it was paid out by hand already (crypto)")
    refund.add_argument("--refund-id", type=UUID, help="makes the command repeatable; by default a new one")
    for command in (resolve, refund):
        command.add_argument("--actor", required=True, help="who decides")
        command.add_argument("--note", required=True, help="why")


async def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run one of ``COMMANDS`` in one transaction; the running service does what follows from it.

    Returns the exit code: 1 if it was refused.
    """
    engine = create_engine(settings)
    try:
        async with Transactions(engine, producer="payments").begin() as tx:
            outcome = await COMMANDS[arguments.command](tx, arguments)
        _print(outcome)
    except CommandRefused as error:
        sys.stderr.write(f"refused ({error.code}): {error}\n")
        return 1
    finally:
        await engine.dispose()
    return 0


async def _reviews(tx: Transaction, _: argparse.Namespace) -> str:
    return await queries.list_open_reviews(tx.connection)


async def _resolve(tx: Transaction, arguments: argparse.Namespace) -> str:
    await resolve_review(tx, arguments.review, arguments.resolution, arguments.actor, arguments.note)
    return f"review {arguments.review} is {arguments.resolution}"


async def _refund(tx: Transaction, arguments: argparse.Namespace) -> str:
    refund_id = arguments.refund_id or new_id()
    # Before the commit: if the connection breaks during it, only a repetition under the same id is safe.
    _print(f"refund {refund_id}: to be sure, repeat the command with --refund-id and this id")
    await request_refund(
        tx, arguments.payment, arguments.amount_cents, arguments.actor, arguments.note, arguments.manual, refund_id
    )
    return f"refund {refund_id} is written down"


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


COMMANDS: Final[dict[str, Command]] = {"reviews": _reviews, "resolve": _resolve, "refund": _refund}
