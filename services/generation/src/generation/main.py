"""The only wiring of generation: ``python -m generation.main serve|migrate|margin``."""

import argparse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from litestar import Litestar

from generation import commands
from generation.callback_intake import CallbackIntake
from generation.consumers import subscriptions
from generation.dependencies import build_dependencies
from generation.handlers import Handlers
from generation.http import build_app
from generation.loops.attempt_checks import AttemptChecks
from generation.loops.callbacks import CallbackProcessor
from generation.loops.dispatcher import Dispatcher, DispatchLimits
from generation.loops.endpoint_health import EndpointHealthChecks
from generation.loops.estimates import Estimates
from generation.loops.file_transfers import FileTransfers
from generation.loops.gauges import Gauges
from generation.loops.sweep import Sweep
from generation.loops.timers import Timers
from generation.progress import ProgressReports
from generation.settings import Settings
from generation.startup import configure_when_available
from generation.track_record import TrackRecord
from generation.wake_ups import WakeUps
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

GAUGE_SECONDS: Final = 15.0
ESTIMATE_SECONDS: Final = 2.0
PURGE_SECONDS: Final = 3600.0
LONG_ROUND_SECONDS: Final = 300.0


SELDOM: Final = 10
"""So many polls apart the loops look by themselves that the sweep wakes."""


@dataclass(frozen=True)
class Generation:
    """The service, wired and not yet running."""

    components: Sequence[Component]
    app: Litestar
    readiness: Mapping[str, ReadinessCheck]
    degraded_by: Mapping[str, ReadinessCheck]
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]


def build(settings: Settings) -> Generation:
    """Put the service together; nothing is connected to yet. Raises EndpointNotConfigured."""
    engine, wake_ups, policy, poll = create_engine(settings), WakeUps(), settings.policy, settings.poll_seconds
    database = DatabaseWatch(settings, engine)
    dependencies = build_dependencies(settings, database.clock)
    runpod = dependencies.runpod
    track_record = TrackRecord()
    handlers = Handlers(dependencies.catalogue, policy, settings.active_caps, wake_ups, track_record)
    messaging = Messaging(service="generation", engine=engine, settings=settings, subscriptions=subscriptions(handlers))
    transactions = messaging.transactions
    dispatcher = Dispatcher(
        transactions,
        runpod,
        dependencies.job_requests,
        sorted(settings.endpoints),
        policy,
        DispatchLimits(settings.submit_concurrency, poll * SELDOM, settings.lease_seconds),
        settings.breaker,
        wake_ups,
    )
    callbacks = CallbackProcessor(transactions, policy, wake_ups)
    transfers = FileTransfers(transactions, dependencies.returned_files, policy, wake_ups)
    checks = AttemptChecks(transactions, runpod, policy, wake_ups)
    sweep = Sweep(transactions, wake_ups)
    timers = Timers(transactions, policy, settings.callback_retention_seconds, wake_ups)
    endpoint_ids = {name: endpoint.id for name, endpoint in settings.endpoints.items()}
    tiers = {model.id: [tier.id for tier in model.tiers] for model in dependencies.catalogue.models}
    gauges = Gauges(engine, sorted(settings.endpoints), tiers)
    health = EndpointHealthChecks(transactions, runpod, endpoint_ids, settings.health)
    estimates = Estimates(engine, messaging.broker, track_record)
    node_names = dependencies.catalogue.node_names
    progress = ProgressReports(transactions, messaging.broker, policy, wake_ups, node_names)

    woken = partial(Every, seconds=poll * SELDOM, retry_seconds=poll)

    async def stop() -> None:
        await dispatcher.drain()
        await dependencies.close()
        await engine.dispose()

    return Generation(
        components=[
            database,
            *messaging.components(),
            Every("sweep", poll, sweep.wake_due),
            woken("dispatch", function=dispatcher.dispatch, wake=wake_ups.dispatch),
            Every("record", poll, dispatcher.record, wake=dispatcher.answered),
            woken("callbacks", function=callbacks.process, wake=wake_ups.callbacks),
            transfers.worker(poll * SELDOM, poll),
            woken(
                "check-attempts",
                function=checks.check_attempts,
                wake=wake_ups.checks,
                timeout_seconds=LONG_ROUND_SECONDS,
            ),
            woken(
                "cancel-jobs", function=checks.cancel_jobs, wake=wake_ups.cancels, timeout_seconds=LONG_ROUND_SECONDS
            ),
            woken("process-timers", function=timers.process_timers, wake=wake_ups.timers),
            Every("purge", PURGE_SECONDS, timers.purge, timeout_seconds=LONG_ROUND_SECONDS),
            Every("gauges", GAUGE_SECONDS, gauges.measure_database),
            Every("estimates", ESTIMATE_SECONDS, estimates.publish),
            Every("endpoint-health", GAUGE_SECONDS, health.measure, timeout_seconds=LONG_ROUND_SECONDS),
        ],
        app=build_app(
            CallbackIntake(transactions, policy, wake_ups), dependencies.callback_urls, progress, database.clock
        ),
        # Without the broker it takes callbacks, and drives the orders that it has (decision 0036).
        readiness={"database": database.ready, "lineage": messaging.lineage.ready},
        degraded_by=messaging.broker_readiness(),
        start=partial(configure_when_available, transactions, settings),
        stop=stop,
    )


async def serve(settings: Settings) -> None:
    """Run the service until it is told to stop."""
    generation = build(settings)
    await run_service(
        "generation",
        settings,
        schema="generation",
        components=generation.components,
        http=[HttpServer(generation.app, settings.http_host, settings.http_port)],
        readiness=generation.readiness,
        degraded_by=generation.degraded_by,
        on_start=generation.start,
        on_stop=generation.stop,
    )


def main() -> None:
    """Entry point of every command."""
    parser = argparse.ArgumentParser(prog="python -m generation.main", description="The fair queue and RunPod.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    add_service_parsers(subparsers, "generation")
    commands.add_parsers(subparsers)
    arguments = parser.parse_args()
    if arguments.command == "margin":
        run_command(commands.run(arguments))
    if arguments.command == "migrate":
        run_migrate("generation", arguments)
        return
    settings = settings_from_environment(Settings)
    configure_logging("generation", settings)
    run_process(serve(settings))


if __name__ == "__main__":
    main()
