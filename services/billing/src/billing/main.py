"""The only wiring of billing: ``python -m billing.main serve|migrate|grant|verify|seal-head``."""

import argparse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from billing import commands
from billing.consumers import subscriptions
from billing.loops.expiry import expire_due_grants
from billing.loops.overdue import report_overdue_reservations
from billing.loops.sealer import Sealer
from billing.loops.tree_grower import TreeGrower
from billing.proofs import prove_line, prove_prefix
from billing.settings import Settings
from contracts.queries import ProveLedgerLine, ProveLedgerPrefix, Query
from messaging.command_line import run_command
from messaging.queries import Answer, Responder
from messaging.runtime import Messaging
from service_runtime.command_line import add_service_parsers, run_migrate
from service_runtime.database import create_engine
from service_runtime.database_watch import DatabaseWatch
from service_runtime.health import ReadinessCheck
from service_runtime.lifecycle import Component, run_process, run_service
from service_runtime.logging import configure_logging
from service_runtime.loops import Every
from service_runtime.settings import settings_from_environment

OVERDUE_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Billing:
    """The service, wired and not yet running."""

    components: Sequence[Component]
    readiness: Mapping[str, ReadinessCheck]
    stop: Callable[[], Awaitable[None]]


def build(settings: Settings) -> Billing:
    """Put the service together; nothing is connected to yet."""
    engine = create_engine(settings)
    database = DatabaseWatch(settings, engine)
    messaging = Messaging(
        service="billing",
        engine=engine,
        settings=settings,
        subscriptions=subscriptions(settings.max_signup_credits),
    )
    answers: dict[type[Query], Answer] = {
        ProveLedgerLine: partial(prove_line, engine),
        ProveLedgerPrefix: partial(prove_prefix, engine),
    }
    tree_grower = TreeGrower(messaging.transactions, settings.head_seconds)
    return Billing(
        components=[
            database,
            *messaging.components(),
            Responder(messaging.broker, answers),
            Every("expiry", settings.sweep_seconds, partial(expire_due_grants, messaging.transactions)),
            Every("sealing", settings.sweep_seconds, Sealer(engine).seal),
            Every("ledger tree", settings.sweep_seconds, tree_grower.grow),
            Every("overdue", OVERDUE_SECONDS, partial(report_overdue_reservations, engine)),
        ],
        readiness={"database": database.ready, **messaging.readiness()},
        stop=engine.dispose,
    )


async def serve(settings: Settings) -> None:
    """Run the service until it is told to stop."""
    billing = build(settings)
    await run_service(
        "billing",
        settings,
        schema="billing",
        components=billing.components,
        readiness=billing.readiness,
        on_stop=billing.stop,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of every command."""
    parser = argparse.ArgumentParser(prog="python -m billing.main", description="The ledger of credits.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    add_service_parsers(subparsers, "billing")
    commands.add_parsers(subparsers)
    arguments = parser.parse_args(argv)
    if arguments.command == "serve":
        settings = settings_from_environment(Settings)
        configure_logging("billing", settings)
        run_process(serve(settings))
    elif arguments.command == "migrate":
        run_migrate("billing", arguments)
    else:
        run_command(commands.run(arguments))


if __name__ == "__main__":
    main()
