"""The only wiring of the auditor: ``python -m auditor.main serve|migrate|check|show``."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor import repository
from auditor.checker import Checker
from auditor.checking import STATEMENT_TIMEOUT_MS, check_patiently
from auditor.consumers import SUBSCRIPTIONS
from auditor.dossier import dossier, render_dossier
from auditor.errors import NoDatabase, UnknownIdentity, UnusableIdentity
from auditor.invariants import INVARIANTS
from auditor.ledger_seals import SealVerifier
from auditor.reports import render_report, report_document
from auditor.settings import Settings
from messaging.runtime import Messaging
from service_runtime.database import create_engine, database_check, engine_for
from service_runtime.lifecycle import run_process, run_service
from service_runtime.logging import configure_logging
from service_runtime.loops import every
from service_runtime.migrations import migrate
from service_runtime.settings import settings_from_environment

DATABASE_VARIABLE = "AUDITOR_DATABASE_URL"
DEFAULT_TOLERANCE_SECONDS = 60.0
SETTLING_SECONDS = 10.0
"""What a system at rest may need until its last messages are in every view and in the journal."""
LONGEST_CHECK_SECONDS = len(INVARIANTS) * STATEMENT_TIMEOUT_MS / 1000
PARTITIONS_EVERY_SECONDS = 3600.0
SEALS_EVERY_SECONDS = 5.0


async def serve(settings: Settings) -> None:
    """Run the service until it is told to stop."""
    engine = create_engine(settings)
    reading = _reading_engine(settings.database_url.get_secret_value())
    messaging = Messaging(
        service="auditor",
        engine=engine,
        settings=settings,
        subscriptions=SUBSCRIPTIONS,
    )
    checker = Checker(reading, engine, settings.tolerance_seconds)

    async def keep_partitions() -> None:
        async with engine.begin() as connection:
            await repository.maintain_partitions(connection, settings.journal_retention_days)

    async def stop() -> None:
        await reading.dispose()
        await engine.dispose()

    await run_service(
        "auditor",
        settings,
        components=[
            *messaging.components(),
            every("check", settings.check_seconds, checker.run_round, timeout_seconds=LONGEST_CHECK_SECONDS),
            every("ledger seals", SEALS_EVERY_SECONDS, SealVerifier(reading, engine).run_round),
            every("journal partitions", PARTITIONS_EVERY_SECONDS, keep_partitions),
        ],
        readiness={"database": database_check(engine), **messaging.readiness()},
        on_stop=stop,
    )


async def print_check(dsn: str, tolerance_seconds: float, patience_seconds: float, as_json: bool) -> int:
    """Check, print the report, and return the exit code: 1 if anything is violated or could not be checked.

    A check that finds something is repeated for up to ``patience_seconds``; the last one counts.
    """
    engine = _reading_engine(dsn)
    try:
        report = await check_patiently(engine, tolerance_seconds, patience_seconds)
    finally:
        await engine.dispose()
    if as_json:
        document = msgspec.json.encode(report_document(report))
        sys.stdout.write(msgspec.json.format(document).decode() + "\n")
    else:
        sys.stdout.write(render_report(report) + "\n")
    return 0 if report.clean else 1


async def print_dossier(dsn: str, identity: str, everything: bool) -> int:
    """Print what is known about ``identity``; 1 if that is nothing. ``everything``: all rows, not the latest alone."""
    engine = _reading_engine(dsn)
    try:
        found = await dossier(engine, identity, everything)
    except (UnknownIdentity, UnusableIdentity) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        await engine.dispose()
    sys.stdout.write(render_dossier(found) + "\n")
    return 0


async def _check(dsn: str, arguments: argparse.Namespace) -> int:
    tolerance, patience = (0.0, SETTLING_SECONDS) if arguments.settled else (arguments.tolerance, 0.0)
    if arguments.patience is not None:
        patience = arguments.patience
    return await print_check(dsn, tolerance, patience, arguments.json)


def _reading_engine(dsn: str) -> AsyncEngine:
    """Connections whose statements may take long, apart from the pool that the journal is written with."""
    return engine_for(
        dsn, application_name="reelhouse-auditor-check", pool_size=2, statement_timeout_ms=STATEMENT_TIMEOUT_MS
    )


def _dsn(platform: Path | None) -> str:
    """Where to look: in the description of a running platform, or in the environment."""
    if platform is not None:
        description = msgspec.json.decode(platform.read_bytes())
        return str(description["postgres"]["dsns"]["auditor"])
    dsn = os.environ.get(DATABASE_VARIABLE)
    if not dsn:
        raise NoDatabase(f"set {DATABASE_VARIABLE}, or name a platform: --platform .reelhouse/local/platform.json")
    return dsn


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m auditor.main", description="Flight recorder and continuous proof.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run the service")
    commands.add_parser("migrate", help="bring the schema up to date (AUDITOR_MIGRATION_DATABASE_URL)")
    checking = commands.add_parser("check", help="check every invariant now; exit code 1 if one is violated")
    tolerance = checking.add_mutually_exclusive_group()
    tolerance.add_argument(
        "--tolerance", type=float, default=DEFAULT_TOLERANCE_SECONDS, help="seconds that services may disagree for"
    )
    tolerance.add_argument("--settled", action="store_true", help="the system is at rest: tolerate nothing")
    checking.add_argument(
        "--patience",
        type=float,
        help="seconds to check again for while something is violated, until the last messages have arrived"
        f" (default 0, with --settled {SETTLING_SECONDS:g})",
    )
    checking.add_argument("--json", action="store_true", help="print JSON instead of tables")
    showing = commands.add_parser("show", help="print everything that is known about an id")
    showing.add_argument("id", help="any id of the platform, or a provider's: it is resolved to what it belongs to")
    showing.add_argument("--all", action="store_true", help="every row and every text whole, not the latest alone")
    for command in (checking, showing):
        command.add_argument("--platform", type=Path, help=f"platform.json of a running platform ({DATABASE_VARIABLE})")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of every command."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "serve":
        settings = settings_from_environment(Settings)
        configure_logging("auditor", settings)
        run_process(serve(settings))
    if arguments.command == "migrate":
        migrate("auditor")
        return
    try:
        dsn = _dsn(arguments.platform)
    except (NoDatabase, FileNotFoundError) as error:
        sys.exit(str(error))
    if arguments.command == "check":
        sys.exit(asyncio.run(_check(dsn, arguments)))
    sys.exit(asyncio.run(print_dossier(dsn, arguments.id, arguments.all)))


if __name__ == "__main__":
    main()
