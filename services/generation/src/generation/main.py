"""The only wiring of generation: ``python -m generation.main serve|migrate``."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import httpx
import structlog
from litestar import Litestar

from catalogue import load_catalogue
from generation.callback_processing import CallbackProcessor
from generation.callback_urls import CallbackUrls
from generation.changes import Wakes
from generation.consumers import subscriptions
from generation.dispatcher import Dispatcher, DispatchLimits
from generation.gauges import Gauges
from generation.handlers import Handlers
from generation.http import build_app
from generation.job_requests import JobRequests
from generation.progress import ProgressReports
from generation.public_addresses import PublicFetcher
from generation.repository.queue import EndpointLimits, configure_endpoints
from generation.returned_files import ReturnedFiles
from generation.runpod_client import CANCELS_AT_ONCE, RunPodClient
from generation.settings import Settings
from generation.sweeps import CALLS_AT_ONCE, Sweeps
from messaging.database import is_unavailable
from messaging.runtime import Messaging
from service_runtime.database import create_engine, database_check
from service_runtime.lifecycle import Component, HttpServer, run_process, run_service
from service_runtime.logging import configure_logging
from service_runtime.loops import every
from service_runtime.migrations import migrate
from service_runtime.presigned_urls import PresignedUrls
from service_runtime.settings import settings_from_environment

_GAUGE_SECONDS: Final = 15.0
_HEALTH_SECONDS: Final = 60.0
_TIDY_SECONDS: Final = 3600.0
_TRANSFER_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)

log = structlog.get_logger(__name__)


class UnconfiguredEndpoint(Exception):
    """A model of the catalogue runs on an endpoint that the settings do not name."""


@dataclass(frozen=True)
class Service:
    """Everything that runs in one process, put together and not yet started."""

    components: list[Component]
    app: Litestar
    readiness: Mapping[str, Callable[[], Awaitable[None]]]
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]


def build(settings: Settings) -> Service:
    """Wire the service. Connects to nothing. Raises UnconfiguredEndpoint."""
    catalogue = load_catalogue()
    for model in catalogue.models:
        if model.endpoint not in settings.endpoints:
            raise UnconfiguredEndpoint(f"model {model.id} runs on endpoint {model.endpoint}: set GENERATION_ENDPOINTS")
    wakes, policy = Wakes(), settings.policy
    engine = create_engine(settings)
    active_caps: dict[str, int] = {lane: share.max_active_per_user for lane, share in settings.lanes.items()}
    messaging = Messaging(
        service="generation",
        engine=engine,
        settings=settings,
        subscriptions=subscriptions(Handlers(catalogue, policy, active_caps, wakes)),
    )
    # Submissions, looks at each endpoint, cancels and health: none of them waits for a connection that another holds.
    connections = settings.submit_concurrency + (CALLS_AT_ONCE + 1) * len(settings.endpoints) + CANCELS_AT_ONCE
    provider_http = httpx.AsyncClient(
        timeout=settings.runpod_timeout_seconds,
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=32),
    )
    transfer_http = httpx.AsyncClient(timeout=_TRANSFER_TIMEOUT)
    stranger_http = httpx.AsyncClient(timeout=_TRANSFER_TIMEOUT, trust_env=False, follow_redirects=False)
    client = RunPodClient(
        provider_http,
        settings.runpod_api_base,
        settings.runpod_api_key.get_secret_value(),
        call_seconds=settings.lease_seconds,
    )
    callbacks = CallbackUrls(
        settings.callback_base_url, [secret.get_secret_value() for secret in settings.callback_secrets]
    )
    requests = JobRequests(
        catalogue,
        callbacks,
        _presigned_urls(settings, settings.s3_public_endpoint_url or settings.s3_endpoint_url),
        settings.s3_incoming_bucket,
        settings.s3_uploads_bucket,
    )
    files = ReturnedFiles(
        transfer_http,
        PublicFetcher(stranger_http),
        _presigned_urls(settings, settings.s3_endpoint_url),
        settings.s3_incoming_bucket,
    )
    transactions = messaging.transactions
    dispatcher = Dispatcher(
        transactions, client, requests, sorted(settings.endpoints), policy, _dispatch_limits(settings), wakes
    )
    processor = CallbackProcessor(transactions, files, policy, wakes)
    sweeps = Sweeps(transactions, client, policy, settings.callback_retention_seconds, wakes)
    gauges = Gauges(engine, client, {name: endpoint.id for name, endpoint in settings.endpoints.items()})
    poll = settings.poll_seconds

    async def configure() -> None:
        async with transactions.begin() as tx:
            await configure_endpoints(
                tx.connection,
                _endpoint_limits(settings),
                {str(lane): share.weight for lane, share in settings.lanes.items()},
                active_caps,
            )

    async def start() -> None:
        while True:
            try:
                return await configure()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                log.warning("database_awaited", reason=str(error))
                await asyncio.sleep(poll)

    async def stop() -> None:
        await dispatcher.drain()
        await processor.drain()
        for http in (provider_http, transfer_http, stranger_http):
            await http.aclose()
        await engine.dispose()

    return Service(
        components=[
            *messaging.components(),
            every("dispatch", poll, dispatcher.dispatch, wake=wakes.dispatch),
            every("record", poll, dispatcher.record, wake=dispatcher.answered),
            every("callbacks", poll, processor.process, wake=wakes.callbacks),
            every("check-attempts", poll, sweeps.check_attempts, timeout_seconds=300.0),
            every("cancel-jobs", poll, sweeps.cancel_jobs, wake=wakes.cancels, timeout_seconds=300.0),
            every("keep-time", poll, sweeps.keep_time),
            every("tidy", _TIDY_SECONDS, sweeps.tidy, timeout_seconds=300.0),
            every("gauges", _GAUGE_SECONDS, gauges.measure),
            every("provider-health", _HEALTH_SECONDS, gauges.ask_provider),
        ],
        app=build_app(transactions, callbacks, ProgressReports(transactions, messaging.broker, policy, wakes), wakes),
        readiness={**messaging.readiness(), "database": database_check(engine)},
        start=start,
        stop=stop,
    )


def _presigned_urls(settings: Settings, endpoint_url: str) -> PresignedUrls:
    return PresignedUrls(
        endpoint_url,
        settings.s3_region,
        settings.s3_access_key_id,
        settings.s3_secret_access_key.get_secret_value(),
    )


def _dispatch_limits(settings: Settings) -> DispatchLimits:
    return DispatchLimits(
        concurrency=settings.submit_concurrency,
        poll_seconds=settings.poll_seconds,
        lease_seconds=settings.lease_seconds,
        breaker_threshold=settings.breaker_threshold,
        breaker_first_seconds=settings.breaker_first_seconds,
        breaker_longest_seconds=settings.breaker_longest_seconds,
    )


def _endpoint_limits(settings: Settings) -> list[EndpointLimits]:
    return [
        EndpointLimits(
            endpoint=name,
            endpoint_id=endpoint.id,
            max_active=endpoint.max_active,
            rate_per_second=endpoint.rate_per_second,
            burst=endpoint.burst,
        )
        for name, endpoint in sorted(settings.endpoints.items())
    ]


async def serve(settings: Settings) -> None:
    """Run the service until it is told to stop."""
    service = build(settings)
    await run_service(
        "generation",
        settings,
        components=service.components,
        http=[HttpServer(service.app, settings.http_host, settings.http_port)],
        readiness=service.readiness,
        on_start=service.start,
        on_stop=service.stop,
    )


def main() -> None:
    """Entry point of every command."""
    parser = argparse.ArgumentParser(prog="python -m generation.main", description="The fair queue and RunPod.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run the service")
    commands.add_parser("migrate", help="bring the schema up to date (GENERATION_MIGRATION_DATABASE_URL)")
    if parser.parse_args().command == "migrate":
        migrate("generation")
        return
    settings = settings_from_environment(Settings)
    configure_logging("generation", settings)
    run_process(serve(settings))


if __name__ == "__main__":
    main()
