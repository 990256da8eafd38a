"""What generation talks to besides database and broker: RunPod, the object store, and untrusted addresses."""

from dataclasses import dataclass
from typing import Final

import httpx

from catalogue import Catalogue, load_catalogue
from contracts.object_keys import MAX_UPLOAD_BYTES
from generation.callback_urls import CallbackUrls
from generation.job_requests import JobRequests
from generation.public_addresses import PublicFetcher
from generation.returned_files import LARGEST_BYTES, ReturnedFiles
from generation.runpod.client import CANCELS_AT_ONCE, POLLS_AT_ONCE, RunPodClient
from generation.runpod.transport import AiohttpTransport
from generation.settings import Settings
from generation.stock_inputs import StockInputs
from service_runtime.bounded_http import bounded_client
from service_runtime.database_watch import DatabaseClock
from service_runtime.presigned_urls import PresignedUrls

_TRANSFER_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)


class EndpointNotConfigured(Exception):
    """A model of the catalogue runs on an endpoint that the settings do not name."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """One per process. Nothing is connected until it is used."""

    catalogue: Catalogue
    callback_urls: CallbackUrls
    job_requests: JobRequests
    runpod: RunPodClient
    returned_files: ReturnedFiles
    provider: AiohttpTransport
    http_clients: tuple[httpx.AsyncClient, ...]

    async def close(self) -> None:
        """Close every connection."""
        await self.provider.aclose()
        for client in self.http_clients:
            await client.aclose()


def build_dependencies(settings: Settings, clock: DatabaseClock) -> Dependencies:
    """Raises EndpointNotConfigured."""
    catalogue = _load_catalogue(settings)
    callback_urls = CallbackUrls(
        settings.callback_base_url, [secret.get_secret_value() for secret in settings.callback_secrets]
    )
    provider = _provider_transport(settings)
    transfer_http = bounded_client(MAX_UPLOAD_BYTES, timeout=_TRANSFER_TIMEOUT)
    job_requests = JobRequests(
        catalogue,
        callback_urls,
        _presigned_urls(settings, settings.s3_public_endpoint_url or settings.s3_endpoint_url, clock),
        settings.s3_incoming_bucket,
        settings.s3_uploads_bucket,
        StockInputs(
            {name for name, endpoint in settings.endpoints.items() if endpoint.worker == "stock"},
            transfer_http,
            _presigned_urls(settings, settings.s3_endpoint_url, clock),
            settings.s3_uploads_bucket,
        ),
        clock,
    )
    untrusted_http = bounded_client(LARGEST_BYTES, timeout=_TRANSFER_TIMEOUT, trust_env=False, follow_redirects=False)
    runpod = RunPodClient(
        provider,
        settings.runpod_api_base,
        settings.runpod_api_key.get_secret_value(),
        timeout_seconds=settings.runpod_timeout_seconds,
        call_seconds=settings.lease_seconds,
        rest_base=settings.runpod_rest_base,
    )
    returned_files = ReturnedFiles(
        transfer_http,
        PublicFetcher(untrusted_http),
        _presigned_urls(settings, settings.s3_endpoint_url, clock),
        settings.s3_incoming_bucket,
    )
    http_clients = (transfer_http, untrusted_http)
    return Dependencies(catalogue, callback_urls, job_requests, runpod, returned_files, provider, http_clients)


def _load_catalogue(settings: Settings) -> Catalogue:
    catalogue = load_catalogue()
    for model in catalogue.models:
        if model.endpoint not in settings.endpoints:
            raise EndpointNotConfigured(f"model {model.id} runs on endpoint {model.endpoint}: set GENERATION_ENDPOINTS")
    return catalogue


def _provider_transport(settings: Settings) -> AiohttpTransport:
    # Submissions, polls of each endpoint, cancels and health: none of them waits for the connection of another.
    connections = settings.submit_concurrency + (POLLS_AT_ONCE + 1) * len(settings.endpoints) + CANCELS_AT_ONCE
    return AiohttpTransport(connections)


def _presigned_urls(settings: Settings, endpoint_url: str, clock: DatabaseClock) -> PresignedUrls:
    return PresignedUrls(
        endpoint_url,
        settings.s3_region,
        settings.s3_access_key_id,
        settings.s3_secret_access_key.get_secret_value(),
        clock.now,
    )
