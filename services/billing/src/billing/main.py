"""The only wiring of billing: ``python -m billing.main serve|migrate|grant|verify|seal-head``."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from billing import handlers, loops
from billing.consumers import SUBSCRIPTIONS
from billing.errors import LedgerError
from billing.sealing import repository as seals
from billing.sealing.sealer import Sealer
from billing.sealing.verification import verify
from billing.settings import CommandSettings, Settings
from contracts.billing import GrantCredits
from contracts.ledger_chain import Head
from messaging.ids import new_id
from messaging.received import Received
from messaging.runtime import Messaging
from messaging.transaction import Transactions
from service_runtime.database import create_engine, engine_for
from service_runtime.lifecycle import run_process, run_service
from service_runtime.logging import configure_logging
from service_runtime.loops import every
from service_runtime.migrations import migrate
from service_runtime.settings import settings_from_environment

OVERDUE_SECONDS = 60.0
LONGEST_CHECK_MS = 3_600_000
"""A single query of a verification reads the whole ledger."""


async def serve(settings: Settings) -> None:
    """Run the service until it is told to stop."""
    engine = create_engine(settings)
    messaging = Messaging(
        service="billing",
        engine=engine,
        settings=settings,
        subscriptions=SUBSCRIPTIONS,
    )
    await run_service(
        "billing",
        settings,
        components=[
            *messaging.components(),
            every("expiry", settings.sweep_seconds, partial(loops.expire_due_grants, messaging.transactions)),
            every("sealing", settings.sweep_seconds, Sealer(engine).seal),
            every("overdue", OVERDUE_SECONDS, partial(loops.report_overdue_reservations, engine)),
        ],
        readiness=messaging.readiness(),
        on_stop=engine.dispose,
    )


async def grant(settings: CommandSettings, command: GrantCredits) -> int:
    """Grant credits as an operator. Repeating it with the same grant id changes nothing. Returns the exit code."""
    message = Received(
        message_id=command.grant_id,
        subject=command.subject,
        payload=command,
        correlation_id=command.grant_id,
        causation_id=None,
        occurred_at=datetime.now(UTC),
        traceparent=None,
        deliveries=1,
    )
    # Said first: if the connection breaks during the commit, only a repetition under the same id is safe.
    _report(f"granting under the id {command.grant_id}: to be sure, repeat the command with --grant-id and this id")
    engine = engine_for(settings.database_url.get_secret_value(), application_name="reelhouse-billing-grant")
    try:
        async with Transactions(engine, producer="billing").begin() as tx:
            await handlers.apply_commands(tx, [message])
            made = bool(tx.outgoing)
    except LedgerError as error:
        return _report(f"refused ({error.code}): {error}", failed=True)
    finally:
        await engine.dispose()
    what = f"grant {command.grant_id}: {command.amount_credits} credits to user {command.user_id}"
    return _report(what if made else f"{what} (made before, nothing changed)")


async def check(settings: CommandSettings, exported: Head | None) -> int:
    """Recompute the whole ledger and print what is wrong with it. Returns the exit code: 0 if it is sound."""
    engine = engine_for(
        settings.database_url.get_secret_value(),
        application_name="reelhouse-billing-verify",
        statement_timeout_ms=LONGEST_CHECK_MS,
    )
    try:
        report = await verify(engine, exported)
    finally:
        await engine.dispose()
    for finding in report.findings:
        _report(f"TAMPERED: {finding}")
    for violation in report.violations:
        _report(f"VIOLATED: {violation.invariant}: {violation.detail}")
    _report(f"{report.seals} seals over {report.sealed_postings} postings, {report.unsealed_postings} not sealed yet")
    _report(f"head {report.head}")
    return _report("the ledger is sound" if report.sound else "the ledger is NOT sound", failed=not report.sound)


async def print_head(settings: CommandSettings) -> int:
    """Print the end of the hash chain, to be kept where no database administrator can change it."""
    engine = engine_for(settings.database_url.get_secret_value(), application_name="reelhouse-billing-seal-head")
    try:
        async with engine.connect() as connection:
            return _report(str(await seals.get_head(connection)))
    finally:
        await engine.dispose()


def _report(line: str, *, failed: bool = False) -> int:
    (sys.stderr if failed else sys.stdout).write(f"{line}\n")
    return 1 if failed else 0


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError("give the time with its zone, for example 2027-01-31T00:00:00Z")
    return moment


def _credits(text: str) -> int:
    amount = int(text)
    if amount < 1:
        raise argparse.ArgumentTypeError("credits are whole and positive")
    return amount


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m billing.main", description="The ledger of credits.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run the service")
    commands.add_parser("migrate", help="bring the schema up to date (BILLING_MIGRATION_DATABASE_URL)")
    granting = commands.add_parser("grant", help="credit a user")
    granting.add_argument("--user", type=UUID, required=True)
    granting.add_argument("--credits", type=_credits, required=True)
    granting.add_argument("--reason", choices=("signup", "goodwill"), required=True)
    granting.add_argument("--actor", required=True, help="who decided it")
    granting.add_argument("--note")
    granting.add_argument("--expires-at", type=_moment, help="ISO 8601 with a time zone")
    granting.add_argument("--grant-id", type=UUID, help="makes the command repeatable; by default a new one")
    verifying = commands.add_parser("verify", help="recompute the ledger: seals, every posting, every invariant")
    verifying.add_argument("--head", type=Head.parse, help="a head that was exported before")
    commands.add_parser("seal-head", help="print the head of the hash chain")
    return parser


def _operation(arguments: argparse.Namespace) -> Callable[[CommandSettings], Coroutine[Any, Any, int]]:
    if arguments.command == "grant":
        command = GrantCredits(
            grant_id=arguments.grant_id or new_id(),
            user_id=arguments.user,
            amount_credits=arguments.credits,
            reason=arguments.reason,
            actor=arguments.actor,
            note=arguments.note,
            expires_at=arguments.expires_at,
        )
        return partial(grant, command=command)
    if arguments.command == "verify":
        return partial(check, exported=arguments.head)
    return print_head


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of every command."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "serve":
        settings = settings_from_environment(Settings)
        configure_logging("billing", settings)
        run_process(serve(settings))
    if arguments.command == "migrate":
        migrate("billing")
        return
    operation = _operation(arguments)
    sys.exit(asyncio.run(operation(settings_from_environment(CommandSettings))))


if __name__ == "__main__":
    main()
