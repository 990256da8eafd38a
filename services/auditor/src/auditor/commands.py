"""The operator's commands: ``check``, ``show`` and ``growth``. Each returns its exit code.

They work whether or not the service runs.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.checking import check_until_clean, reading_engine
from auditor.dossier import read_dossier, render_dossier, render_files, render_unread_files
from auditor.errors import LibraryUnavailable, NoDatabase, NoHead, UnknownIdentity, UnusableIdentity
from auditor.file_checks import check_files
from auditor.growth import prove_growth
from auditor.library import Library, LibraryAddress
from auditor.pace import Pace
from auditor.reports import render_report, report_document
from auditor.repository.library import find_assets_of
from auditor.schemas import snapshot
from auditor.settings import CommandSettings
from auditor.terminal import print_to
from contracts.ledger_tree import TreeHead
from service_runtime.settings import settings_from_environment

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_TOLERANCE_SECONDS: Final = 60.0
SETTLING_SECONDS: Final = 10.0
"""The time that a system at rest may need until its last messages are in every view and in the journal."""
OBJECTS_PER_SECOND: Final = 100.0
BYTES_PER_SECOND: Final = 100e6
"""For the files of one id, while an operator waits."""
LOCAL_BUCKET: Final = "library"


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
    growth = commands.add_parser("growth", help="prove that the newest head of the ledger continues one that was kept")
    growth.add_argument("--since", type=TreeHead.parse, required=True, help="the head that was kept, SIZE:ROOT")
    for command in (check, show, growth):
        command.add_argument(
            "--platform", type=Path, help="platform.json of a running platform (default: AUDITOR_DATABASE_URL)"
        )


async def run(arguments: argparse.Namespace) -> int:
    """Run the command that was typed; returns the exit code."""
    try:
        source = _source(arguments.platform)
    except (NoDatabase, FileNotFoundError) as error:
        return _fail(str(error))
    engine = reading_engine(source.dsn)
    try:
        if arguments.command == "check":
            return await _check(engine, arguments)
        if arguments.command == "growth":
            return await growth(engine, arguments.since)
        return await show(engine, arguments.id, arguments.all, source.library)
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


async def growth(engine: AsyncEngine, since: TreeHead) -> int:
    """Print the proof that the ledger continues a head that was kept. The exit code is 1 if it does not."""
    try:
        proof = await prove_growth(engine, since)
    except NoHead as error:
        return _fail(str(error))
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(proof.document())).decode() + "\n")
    if not proof.is_proven:
        return _fail(f"NOT PROVEN: the ledger does not continue the head {since}")
    return 0


async def show(engine: AsyncEngine, identity: str, all_rows: bool, library: LibraryAddress | None) -> int:
    """Print what is known about ``identity``, and read its files. The exit code is 1 if nothing is known."""
    try:
        dossier = await read_dossier(engine, identity, all_rows)
    except (UnknownIdentity, UnusableIdentity) as error:
        return _fail(str(error))
    print_to(sys.stdout, render_dossier(dossier))
    generations = [
        chapter.identification.subject.uuid
        for chapter in dossier.chapters
        if chapter.identification.subject.kind == "generation" and chapter.identification.subject.uuid is not None
    ]
    await _show_files(engine, generations, library)
    return 0


async def _show_files(engine: AsyncEngine, generations: Sequence[UUID], address: LibraryAddress | None) -> None:
    """Read the files of these generations now, hold them against the books, and print a link to each."""
    async with snapshot(engine) as connection:
        assets = await find_assets_of(connection, generations)
    if not assets:
        return
    if address is None:
        print_to(sys.stdout, render_unread_files("set AUDITOR_S3_ENDPOINT_URL and the token's two keys"))
        return
    library = Library(address, Pace(OBJECTS_PER_SECOND, BYTES_PER_SECOND))
    try:
        files = await check_files(library, [recorded for asset in assets for recorded in asset.files])
    except LibraryUnavailable as error:
        print_to(sys.stdout, render_unread_files(str(error)))
    else:
        print_to(sys.stdout, render_files(files))
    finally:
        await library.close()


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a command reads; ``library`` is None where nothing says."""

    dsn: str
    library: LibraryAddress | None


class _Postgres(msgspec.Struct):
    dsns: dict[str, str]


class _Credentials(msgspec.Struct):
    access_key: str
    secret_key: str


class _ObjectStore(msgspec.Struct):
    endpoint_url: str
    region: str
    credentials: dict[str, _Credentials]


class _Platform(msgspec.Struct):
    """The part of a platform's description that is needed here."""

    postgres: _Postgres
    s3: _ObjectStore | None = None


def _source(platform: Path | None) -> _Source:
    """What the description of a running platform names, or the environment."""
    if platform is not None:
        described = msgspec.json.decode(platform.read_bytes(), type=_Platform)
        return _Source(described.postgres.dsns["auditor"], _library(described.s3))
    settings = settings_from_environment(CommandSettings)
    if settings.database_url is None:
        raise NoDatabase("set AUDITOR_DATABASE_URL, or name a platform: --platform .reelhouse/local/platform.json")
    return _Source(settings.database_url.get_secret_value(), LibraryAddress.of(settings))


def _library(store: _ObjectStore | None) -> LibraryAddress | None:
    token = None if store is None else store.credentials.get("auditor")
    if store is None or token is None:
        return None
    url = store.endpoint_url
    return LibraryAddress(url, url, store.region, token.access_key, token.secret_key, LOCAL_BUCKET)


def _fail(line: str) -> int:
    sys.stderr.write(f"{line}\n")
    return 1
