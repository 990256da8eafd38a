"""The only wiring of payments: ``python -m payments.main serve|migrate|reviews|resolve|refund``."""

import argparse
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from litestar import Litestar

from catalogue.credit_packs import load_credit_packs
from messaging.command_line import run_command
from messaging.runtime import Messaging
from payments import commands, metrics
from payments.consumers import subscriptions
from payments.handlers.purchases import Policy
from payments.http import build_app
from payments.loops.due_work import DueWork
from payments.loops.gauges import measure
from payments.loops.provider_workers import Intervals, ProviderWorkers
from payments.loops.unposted import report_unposted
from payments.providers.registry import build_providers
from payments.providers.stripe_checkout import EVENT_TYPES
from payments.settings import Settings
from payments.wake_ups import WakeUps
from service_runtime.command_line import add_service_parsers, run_migrate
from service_runtime.database import create_engine
from service_runtime.database_watch import DatabaseWatch
from service_runtime.health import ReadinessCheck
from service_runtime.lifecycle import Component, HttpServer, run_process, run_service
from service_runtime.logging import configure_logging
from service_runtime.loops import Every
from service_runtime.settings import settings_from_environment

UNPOSTED_SECONDS: Final = 30.0
GAUGES_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Payments:
    """The service, wired and not yet running."""

    components: Sequence[Component]
    app: Litestar
    readiness: Mapping[str, ReadinessCheck]
    degraded_by: Mapping[str, ReadinessCheck]
    stop: Callable[[], Awaitable[None]]


def build(settings: Settings) -> Payments:
    """Put the service together; nothing is connected to yet."""
    engine = create_engine(settings)
    database = DatabaseWatch(settings, engine)
    providers = build_providers(settings, database.clock)
    wake_ups = WakeUps()
    policy = Policy(
        packs={pack.id: pack for pack in load_credit_packs()},
        providers=frozenset(providers),
        max_open_payments=settings.max_open_payments,
        lifetime=timedelta(seconds=settings.payment_lifetime_seconds),
    )
    intervals = Intervals(
        poll_seconds=settings.poll_seconds,
        events=timedelta(seconds=settings.events_sweep_seconds),
        compare=timedelta(seconds=settings.compare_sweep_seconds),
    )
    messaging = Messaging(
        service="payments", engine=engine, settings=settings, subscriptions=subscriptions(policy, wake_ups)
    )
    transactions = messaging.transactions
    metrics.start(providers)
    workers = [ProviderWorkers(transactions, provider, intervals, wake_ups) for provider in providers.values()]

    async def stop() -> None:
        for provider in providers.values():
            await provider.close()
        await engine.dispose()

    return Payments(
        components=[
            database,
            *messaging.components(),
            Every("due-work", settings.poll_seconds, DueWork(transactions, tuple(providers), wake_ups).wake_workers),
            *(component for worker in workers for component in worker.components()),
            Every("unposted", UNPOSTED_SECONDS, partial(report_unposted, transactions)),
            Every("gauges", GAUGES_SECONDS, partial(measure, transactions, tuple(providers))),
        ],
        app=build_app(transactions, providers, wake_ups),
        # Without the broker it takes webhooks (decision 0036).
        readiness={"database": database.ready, "lineage": messaging.lineage.ready},
        degraded_by=messaging.broker_readiness(),
        stop=stop,
    )


async def serve(settings: Settings) -> None:
    """Run the service until it is told to stop."""
    payments = build(settings)
    await run_service(
        "payments",
        settings,
        schema="payments",
        components=payments.components,
        http=[HttpServer(payments.app, settings.http_host, settings.http_port)],
        readiness=payments.readiness,
        degraded_by=payments.degraded_by,
        on_stop=payments.stop,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of every command."""
    parser = argparse.ArgumentParser(prog="python -m payments.main", description="Stripe and crypto payments.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    add_service_parsers(subparsers, "payments")
    commands.add_parsers(subparsers)
    arguments = parser.parse_args(argv)
    if arguments.command == "migrate":
        run_migrate("payments", arguments)
        return
    if arguments.command == "stripe-events":
        sys.stdout.write("".join(f"{event}\n" for event in EVENT_TYPES))
        return
    settings = settings_from_environment(Settings)
    configure_logging("payments", settings)
    if arguments.command == "serve":
        run_process(serve(settings))
    run_command(commands.run(settings, arguments))


if __name__ == "__main__":
    main()
