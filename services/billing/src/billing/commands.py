"""The operator's commands: ``grant``, ``verify`` and ``seal-head``. Each returns its exit code.

They need only ``BILLING_DATABASE_URL`` and work whether or not the service runs. With the broker's settings, ``grant``
knows when the gateway shows the credits.
"""

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from billing import handlers
from billing.domain import MAX_AMOUNT_CREDITS
from billing.errors import LedgerError
from billing.repository import seals
from billing.settings import CommandSettings
from billing.verification import verify
from contracts.billing import CreditsGranted, GrantCredits
from contracts.ledger_chain import Head
from contracts.ledger_tree import TreeHead
from messaging.broker import Broker
from messaging.delivery import Delivery, Follower
from messaging.ids import new_id
from messaging.received import Received
from messaging.transaction import Transactions
from service_runtime.database import STATEMENT_TIMEOUT_MS, engine_for
from service_runtime.settings import settings_from_environment

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

VERIFY_STATEMENT_TIMEOUT_MS: Final = 3_600_000
"""A single query of a verification reads the whole ledger."""


VISIBLE_SECONDS: Final = 10.0
"""A running billing publishes a command's message within a second; the gateway shows it milliseconds later."""
LONGEST_WAIT_SECONDS: Final = 300.0
VISIBILITY: Final[dict[Delivery, str]] = {
    "waiting": "not visible yet: no running billing has published it; the user sees the credits as soon as one has",
    "published": "published; it is not known whether GET /v1/balance shows the credits already",
    "handled": "visible: GET /v1/balance shows the credits",
}
"""What the user sees of a grant."""


def add_parsers(commands: "Subparsers") -> None:
    """Describe the commands and their arguments."""
    grant = commands.add_parser("grant", help="credit a user")
    grant.add_argument("--user", type=UUID, required=True)
    grant.add_argument("--credits", type=_credits, required=True)
    grant.add_argument("--reason", choices=("signup", "goodwill"), required=True)
    grant.add_argument("--actor", required=True, help="who decided it")
    grant.add_argument("--note")
    grant.add_argument("--expires-at", type=_time_with_zone, help="ISO 8601 with a time zone")
    grant.add_argument("--grant-id", type=UUID, help="makes the command repeatable; by default a new one")
    wait_help = f"how long to wait until the user sees the credits (default: {VISIBLE_SECONDS:g})"
    grant.add_argument("--wait-seconds", type=_seconds, default=VISIBLE_SECONDS, help=wait_help)
    verify = commands.add_parser("verify", help="recompute the ledger: seals, every posting, every invariant")
    verify.add_argument("--head", type=Head.parse, help="a head that was exported before")
    verify.add_argument("--tree-head", type=TreeHead.parse, help="a head of the tree that was published before")
    commands.add_parser("seal-head", help="print the head of the hash chain")


async def run(arguments: argparse.Namespace) -> int:
    """Run the command that was typed; returns the exit code."""
    settings = settings_from_environment(CommandSettings)
    if arguments.command == "grant":
        return await grant(settings, _grant_command(arguments), arguments.wait_seconds)
    if arguments.command == "verify":
        return await verify_ledger(settings, arguments.head, arguments.tree_head)
    return await print_seal_head(settings)


async def grant(settings: CommandSettings, command: GrantCredits, wait_seconds: float = 0.0) -> int:
    """Grant credits as an operator, and wait a little until the user sees them.

    Repeating it with the same grant id changes nothing. A grant that is not visible yet is made all the same.
    """
    # Printed first: if the connection breaks during the commit, only a repetition under the same id is safe.
    _print(f"granting under the id {command.grant_id}: to be sure, repeat the command with --grant-id and this id")
    async with _engine(settings, "grant") as engine:
        try:
            async with Transactions(engine, producer="billing").begin() as tx:
                await handlers.grant_by_operator(tx, [_as_received(command)])
                is_new = bool(tx.outgoing)
        except LedgerError as error:
            return _fail(f"refused ({error.code}): {error}")
        outcome = f"grant {command.grant_id}: {command.amount_credits} credits to user {command.user_id}"
        _print(outcome if is_new else f"{outcome} (made before, nothing changed)")
        if wait_seconds:
            follower = Follower("billing", engine, _broker(settings))
            delivery = await follower.follow(CreditsGranted, command.grant_id, "gateway", wait_seconds)
            _print(VISIBILITY[delivery])
    return 0


async def verify_ledger(settings: CommandSettings, exported: Head | None, exported_tree: TreeHead | None) -> int:
    """Recompute the whole ledger and print what is wrong with it. The exit code is 0 if it is sound."""
    async with _engine(settings, "verify", VERIFY_STATEMENT_TIMEOUT_MS) as engine:
        report = await verify(engine, exported, exported_tree)
    for finding in report.findings:
        _print(f"TAMPERED: {finding}")
    for violation in report.violations:
        _print(f"VIOLATED: {violation.invariant}: {violation.detail}")
    _print(f"{report.seals} seals over {report.sealed_postings} postings, {report.unsealed_postings} not sealed yet")
    _print(f"head {report.head}")
    _print(f"tree head {report.tree}")
    return _print("the ledger is sound") if report.sound else _fail("the ledger is NOT sound")


async def print_seal_head(settings: CommandSettings) -> int:
    """Print the end of the hash chain, to be kept where no database administrator can change it."""
    async with _engine(settings, "seal-head") as engine, engine.connect() as connection:
        return _print(str(await seals.get_head(connection)))


@asynccontextmanager
async def _engine(
    settings: CommandSettings, command: str, statement_timeout_ms: int = STATEMENT_TIMEOUT_MS
) -> AsyncIterator[AsyncEngine]:
    engine = engine_for(
        settings.database_url.get_secret_value(),
        application_name=f"reelhouse-billing-{command}",
        statement_timeout_ms=statement_timeout_ms,
    )
    try:
        yield engine
    finally:
        await engine.dispose()


def _broker(settings: CommandSettings) -> Broker | None:
    if settings.nats_url is None:
        return None
    password = settings.nats_password.get_secret_value()
    return Broker(settings.nats_url, settings.nats_user, password, "billing-grant", settings.nats_ca_file)


def _grant_command(arguments: argparse.Namespace) -> GrantCredits:
    return GrantCredits(
        grant_id=arguments.grant_id or new_id(),
        user_id=arguments.user,
        amount_credits=arguments.credits,
        reason=arguments.reason,
        actor=arguments.actor,
        note=arguments.note,
        expires_at=arguments.expires_at,
    )


def _as_received(command: GrantCredits) -> Received[GrantCredits]:
    """The command as the handler gets it from the broker."""
    return Received(
        message_id=command.grant_id,
        subject=command.subject,
        payload=command,
        correlation_id=command.grant_id,
        causation_id=None,
        occurred_at=datetime.now(UTC),
        traceparent=None,
        deliveries=1,
    )


def _time_with_zone(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise argparse.ArgumentTypeError("give the time with its zone, for example 2027-01-31T00:00:00Z")
    return time


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= LONGEST_WAIT_SECONDS:
        raise argparse.ArgumentTypeError(f"wait 0 to {LONGEST_WAIT_SECONDS:g} seconds")
    return seconds


def _credits(text: str) -> int:
    amount = int(text)
    if not 1 <= amount <= MAX_AMOUNT_CREDITS:
        raise argparse.ArgumentTypeError(f"credits are a whole number from 1 to {MAX_AMOUNT_CREDITS:,}")
    return amount


def _print(line: str) -> int:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    return 0


def _fail(line: str) -> int:
    sys.stderr.write(f"{line}\n")
    return 1
