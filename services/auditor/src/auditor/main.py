"""The only wiring of the auditor: ``python -m auditor.main serve|migrate|check|show|growth``."""

import argparse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from auditor import commands
from auditor.checking import STATEMENT_TIMEOUT_MS, reading_engine
from auditor.consumers import SUBSCRIPTIONS
from auditor.invariants import INVARIANTS
from auditor.library import Library, LibraryAddress
from auditor.loops.checker import BUSY_SHARE, Checker
from auditor.loops.journal_partitions import maintain_partitions
from auditor.loops.library_scanner import LibraryScanner
from auditor.loops.seal_verifier import SealVerifier
from auditor.pace import Pace
from auditor.settings import Settings
from messaging.command_line import run_command
from messaging.runtime import Messaging
from service_runtime.command_line import add_service_parsers, run_migrate
from service_runtime.database import create_engine
from service_runtime.database_watch import DatabaseWatch
from service_runtime.health import ReadinessCheck
from service_runtime.lifecycle import Component, run_process, run_service
from service_runtime.logging import configure_logging
from service_runtime.loops import Every
from service_runtime.settings import settings_from_environment

LONGEST_CHECK_SECONDS: Final = len(INVARIANTS) * STATEMENT_TIMEOUT_MS / 1000
PASS_SHARE: Final = 0.6
"""Of the time for checks. What is new gets what it needs."""
PARTITIONS_EVERY_SECONDS: Final = 3600.0
SEALS_EVERY_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Auditor:
    """The service, wired and not yet running."""

    components: Sequence[Component]
    readiness: Mapping[str, ReadinessCheck]
    stop: Callable[[], Awaitable[None]]


def build(settings: Settings) -> Auditor:
    """Put the service together; nothing is connected to yet."""
    engine = create_engine(settings)
    # Checks may take long: their connections are apart from the pool that the journal is written with.
    reading = reading_engine(settings.database_url.get_secret_value())
    database = DatabaseWatch(settings, engine, reading)
    messaging = Messaging(service="auditor", engine=engine, settings=settings, subscriptions=SUBSCRIPTIONS)
    # A round is new activity first, and then what is old, in a tenth of the time together.
    pass_seconds = settings.check_seconds * BUSY_SHARE * PASS_SHARE
    checker = Checker(reading, engine, settings.tolerance_seconds, pass_seconds)
    seal_verifier = SealVerifier(reading, engine)
    address = LibraryAddress.of(settings)
    assert address is not None
    pace = Pace(settings.library_objects_per_second, settings.library_bytes_per_second)
    library = Library(address, pace, database.clock.now)
    scanner = LibraryScanner(messaging.transactions, library, timedelta(seconds=settings.library_grace_seconds))

    async def stop() -> None:
        await library.close()
        await reading.dispose()
        await engine.dispose()

    return Auditor(
        components=[
            database,
            *messaging.components(),
            Every("check", settings.check_seconds, checker.run_round, timeout_seconds=LONGEST_CHECK_SECONDS),
            Every("ledger seals", SEALS_EVERY_SECONDS, seal_verifier.run_round),
            Every(
                "journal partitions",
                PARTITIONS_EVERY_SECONDS,
                partial(maintain_partitions, engine, settings.journal_retention_days),
            ),
            *scanner.components(),
        ],
        readiness={"database": database.ready, **messaging.readiness()},
        stop=stop,
    )


async def serve(settings: Settings) -> None:
    """Run the service until it is told to stop."""
    auditor = build(settings)
    await run_service(
        "auditor",
        settings,
        schema="auditor",
        components=auditor.components,
        readiness=auditor.readiness,
        on_stop=auditor.stop,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of every command."""
    parser = argparse.ArgumentParser(prog="python -m auditor.main", description="Flight recorder and continuous proof.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    add_service_parsers(subparsers, "auditor")
    commands.add_parsers(subparsers)
    arguments = parser.parse_args(argv)
    if arguments.command == "serve":
        settings = settings_from_environment(Settings)
        configure_logging("auditor", settings)
        run_process(serve(settings))
    elif arguments.command == "migrate":
        run_migrate("auditor", arguments)
    else:
        run_command(commands.run(arguments))


if __name__ == "__main__":
    main()
