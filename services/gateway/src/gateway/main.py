"""The only wiring of the gateway: ``python -m gateway.main serve|migrate|archive``."""

import argparse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI

from catalogue import load_catalogue
from catalogue.credit_packs import load_credit_packs
from gateway import commands
from gateway.admission import Admission
from gateway.consumers import subscriptions
from gateway.dependencies import Dependencies
from gateway.file_urls import FileUrls
from gateway.http import build_app
from gateway.live_events import LiveEvents
from gateway.routes import verification
from gateway.settings import Settings
from gateway.signups import Signups
from gateway.tokens import Tokens
from gateway.withdrawals import EVERY_SECONDS, withdraw_overdue
from messaging.command_line import run_command
from messaging.runtime import Messaging
from service_runtime.command_line import add_service_parsers, run_migrate
from service_runtime.database import create_engine
from service_runtime.database_watch import DatabaseWatch
from service_runtime.health import ReadinessCheck
from service_runtime.lifecycle import Component, HttpServer, run_process, run_service
from service_runtime.logging import configure_logging
from service_runtime.loops import Every
from service_runtime.settings import settings_from_environment


@dataclass(frozen=True)
class Gateway:
    """The service, wired and not yet running."""

    app: FastAPI
    dependencies: Dependencies
    components: Sequence[Component]
    readiness: Mapping[str, ReadinessCheck]
    degraded_by: Mapping[str, ReadinessCheck]
    drain: Callable[[], None]
    stop: Callable[[], Awaitable[None]]


def build(settings: Settings) -> Gateway:
    """Put the service together. It connects to nothing yet."""
    engine = create_engine(settings)
    database = DatabaseWatch(settings, engine)
    tokens = Tokens(settings, database.clock)
    live_events = LiveEvents(settings.event_streams_per_user)
    messaging = Messaging(
        service="gateway",
        engine=engine,
        settings=settings,
        subscriptions=subscriptions(live_events.projected),
    )
    live_events.listen_on(messaging.broker)
    dependencies = Dependencies(
        settings=settings,
        engine=engine,
        transactions=messaging.transactions,
        catalogue=load_catalogue(),
        packs={pack.id: pack for pack in load_credit_packs()},
        tokens=tokens,
        signups=Signups(settings, messaging.transactions),
        clock=database.clock,
        admission=Admission(settings),
        live_events=live_events,
        broker=messaging.broker,
        file_urls=FileUrls(settings, database.clock),
    )

    async def stop() -> None:
        await tokens.close()
        await engine.dispose()

    return Gateway(
        app=build_app(dependencies),
        dependencies=dependencies,
        components=[
            database,
            *messaging.components(),
            live_events,
            Every("unanswered orders", EVERY_SECONDS, partial(withdraw_overdue, messaging.transactions)),
        ],
        # Without the broker it answers 202, and shows what it knows (decision 0036).
        readiness={"database": database.ready, "lineage": messaging.lineage.ready},
        degraded_by={**messaging.broker_readiness(), live_events.name: live_events.ready},
        # The event streams end first, so that the listener can close.
        drain=live_events.close,
        stop=stop,
    )


def http_server(app: FastAPI, settings: Settings) -> HttpServer:
    """Where the public API listens, how long it waits for a request, and which proxies it believes."""
    return HttpServer(
        app,
        settings.http_host,
        settings.http_port,
        slow_paths={verification.PATH: verification.CUT_OFF_SECONDS},
        trusted_proxies=tuple(str(network) for network in settings.trusted_proxies),
    )


async def serve(settings: Settings) -> None:
    """Run the service until it is told to stop."""
    gateway = build(settings)
    await run_service(
        "gateway",
        settings,
        schema="gateway",
        components=gateway.components,
        http=[http_server(gateway.app, settings)],
        readiness=gateway.readiness,
        degraded_by=gateway.degraded_by,
        on_drain=gateway.drain,
        on_stop=gateway.stop,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of every command."""
    parser = argparse.ArgumentParser(prog="python -m gateway.main", description="The only public API.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    add_service_parsers(subparsers, "gateway")
    commands.add_parsers(subparsers)
    arguments = parser.parse_args(argv)
    if arguments.command == "migrate":
        run_migrate("gateway", arguments)
        return
    if arguments.command == "archive":
        run_command(commands.run(arguments))
    settings = settings_from_environment(Settings)
    configure_logging("gateway", settings)
    run_process(serve(settings))


if __name__ == "__main__":
    main()
