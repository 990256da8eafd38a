"""A harness for the webhook ingress and the loops behind it."""

import json
import time
from typing import Any
from uuid import UUID

import httpx

from generation.callback_intake import CallbackIntake
from generation.callback_urls import CallbackUrls
from generation.http import build_app
from generation.loops.callbacks import CallbackProcessor
from generation.loops.file_transfers import FileTransfers
from generation.progress import ProgressReports
from generation.public_addresses import PublicFetcher
from generation.returned_files import ReturnedFiles
from local_platform.servers import S3Server
from messaging.broker import Broker
from service_runtime.authorities import trusted_authorities
from service_runtime.database_watch import DatabaseClock
from service_runtime.presigned_urls import PresignedUrls
from tests.generation.harness import GenerationHarness


class IngressHarness:
    """Drives the public listener, the processor of bodies, and the transfers of one process."""

    def __init__(
        self,
        harness: GenerationHarness,
        s3: S3Server,
        broker: Broker | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.harness = harness
        self.urls = CallbackUrls("http://ingress", ["new secret", "old secret"])
        unconnected = Broker("nats://127.0.0.1:1", "generation", "", "never connected")
        progress = ProgressReports(
            harness.transactions,
            broker or unconnected,
            harness.policy,
            harness.wake_ups,
            harness.catalogue.node_names,
        )
        intake = CallbackIntake(harness.transactions, harness.policy, harness.wake_ups)
        app = build_app(intake, self.urls, progress, DatabaseClock())
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app))  # type: ignore[arg-type]
        access_key, secret_key = s3.credentials["generation"]
        self.bucket_http = httpx.AsyncClient(transport=transport, verify=trusted_authorities())
        self.files = ReturnedFiles(
            self.bucket_http,
            PublicFetcher(httpx.AsyncClient(trust_env=False, verify=trusted_authorities())),
            PresignedUrls(s3.endpoint_url, s3.region, access_key, secret_key),
            "incoming",
        )
        self.processor = CallbackProcessor(harness.transactions, harness.policy, harness.wake_ups)
        transfers = FileTransfers(harness.transactions, self.files, harness.policy, harness.wake_ups)
        self.transfers = transfers.worker(poll_seconds=0.2, retry_seconds=0.2)

    def url(self, attempt_id: UUID) -> str:
        """A callback address of the attempt that is valid for a minute."""
        return self.urls.url(attempt_id, int(time.time()) + 60)

    async def post(self, attempt_id: UUID, body: bytes | dict[str, Any]) -> int:
        """Call the webhook; returns the status of the answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return (await self.http.post(self.url(attempt_id), content=content)).status_code

    async def report(self, attempt_id: UUID, status: str, **more: Any) -> None:
        """Call the webhook, process a body that was only stored, and begin the transfer of its file if it has one."""
        assert await self.post(attempt_id, {"id": "job-1", "status": status, **more}) == 200
        await self.processor.process()
        await self.transfers.fill()

    async def close(self) -> None:
        """Stop the transfers and close every connection."""
        await self.transfers.drain()
        await self.bucket_http.aclose()
        await self.http.aclose()
