"""The operator's commands: ``check`` and ``show``. Each returns its exit code.

They work whether or not the service runs.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.checking import check_until_clean, reading_engine
from auditor.dossier import read_dossier, render_dossier
from auditor.errors import NoDatabase, UnknownIdentity, UnusableIdentity
from auditor.reports import render_report, report_document
from auditor.settings import CommandSettings
from auditor.terminal import print_to
from service_runtime.settings import settings_from_environment

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_TOLERANCE_SECONDS: Final = 60.0
SETTLING_SECONDS: Final = 10.0
"""The time that a system at rest may need until its last messages are in every view and in the journal."""


def add_parsers(commands: "Subparsers") -> None:
    """Describe the commands and their arguments."""
    check = commands.add_parser("check", help="check every invariant now; exit code 1 if one is violated")
    tolerance = check.add_mutually_exclusive_group()
    tolerance.add_argument(
        "--tolerance", type=float, default=DEFAULT_TOLERANCE_SECONDS, help="seconds that services may disagree for"
    )
    tolerance.add_argument("--settled", action="store_true", help="the system is at rest: tolerate nothing")
    check.add_argument(
        "--patience",
        type=float,
        help="seconds to check again for while something is violated, until the last messages have arrived"
        f" (default 0, with --settled {SETTLING_SECONDS:g})",
    )
    check.add_argument("--json", action="store_true", help="print JSON instead of tables")
    show = commands.add_parser("show", help="print everything that is known about an id")
    show.add_argument("id", help="any id of the platform or of a provider; what it belongs to is found")
    show.add_argument("--all", action="store_true", help="every row and every text whole, not the latest alone")
    for command in (check, show):
        command.add_argument(
            "--platform", type=Path, help="platform.json of a running platform (default: AUDITOR_DATABASE_URL)"
        )


async def run(arguments: argparse.Namespace) -> int:
    """Run the command that was typed; returns the exit code."""
    try:
        dsn = _database(arguments.platform)
    except (NoDatabase, FileNotFoundError) as error:
        return _fail(str(error))
    engine = reading_engine(dsn)
    try:
        if arguments.command == "check":
            return await _check(engine, arguments)
        return await show(engine, arguments.id, arguments.all)
    finally:
        await engine.dispose()


async def _check(engine: AsyncEngine, arguments: argparse.Namespace) -> int:
    tolerance, patience = (0.0, SETTLING_SECONDS) if arguments.settled else (arguments.tolerance, 0.0)
    if arguments.patience is not None:
        patience = arguments.patience
    return await check(engine, tolerance, patience, arguments.json)


async def check(engine: AsyncEngine, tolerance_seconds: float, patience_seconds: float, as_json: bool) -> int:
    """Check and print the report. The exit code is 1 if anything is violated or could not be checked.

    A check that finds something is repeated for up to ``patience_seconds``; the last one counts.
    """
    report = await check_until_clean(engine, tolerance_seconds, patience_seconds)
    if as_json:
        document = msgspec.json.encode(report_document(report))
        sys.stdout.write(msgspec.json.format(document).decode() + "\n")
    else:
        print_to(sys.stdout, render_report(report))
    return 0 if report.clean else 1


async def show(engine: AsyncEngine, identity: str, all_rows: bool) -> int:
    """Print what is known about ``identity``. The exit code is 1 if nothing is known."""
    try:
        dossier = await read_dossier(engine, identity, all_rows)
    except (UnknownIdentity, UnusableIdentity) as error:
        return _fail(str(error))
    print_to(sys.stdout, render_dossier(dossier))
    return 0


class _Postgres(msgspec.Struct):
    dsns: dict[str, str]


class _Platform(msgspec.Struct):
    """The part of a platform's description that is needed here."""

    postgres: _Postgres


def _database(platform: Path | None) -> str:
    """The database that the description of a running platform names, or the environment."""
    if platform is not None:
        return msgspec.json.decode(platform.read_bytes(), type=_Platform).postgres.dsns["auditor"]
    dsn = settings_from_environment(CommandSettings).database_url
    if dsn is None:
        raise NoDatabase("set AUDITOR_DATABASE_URL, or name a platform: --platform .reelhouse/local/platform.json")
    return dsn.get_secret_value()


def _fail(line: str) -> int:
    sys.stderr.write(f"{line}\n")
    return 1
