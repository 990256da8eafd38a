"""A process that is told where traces go sends them there."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Final

import httpx
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from local_platform.servers.ports import free_port
from tests.support.waiting import eventually

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
SPAN: Final = "b7ad6b7169203331"


class Collector:
    """Takes OTLP over HTTP, as a real collector does."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        self.requests.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(body=b"", content_type="application/x-protobuf")


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.port = runner.addresses[0][1]
    yield collector
    await runner.cleanup()


async def test_a_service_with_an_endpoint_exports_the_spans_of_its_requests(collector: Collector) -> None:
    ops, http = free_port(), free_port()
    endpoint = f"http://127.0.0.1:{collector.port}/v1/traces"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.service_runtime.probe_service", "well", str(ops), str(http)),
        env={**os.environ, "PROBE_OTLP_ENDPOINT": endpoint},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(trust_env=False) as client:

            async def ready() -> bool:
                try:
                    return (await client.get(f"http://127.0.0.1:{ops}/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(ready, 20, "readiness")
            headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
            answer = await client.get(f"http://127.0.0.1:{http}/fast", headers=headers)
            assert answer.headers["trace-id"] == TRACE
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    resources = [spans for request in collector.requests for spans in request.resource_spans]
    spans = [span for one in resources for scope in one.scope_spans for span in scope.spans]
    (span,) = [span for span in spans if span.trace_id.hex() == TRACE]
    assert span.parent_span_id.hex() == SPAN
    names = {a.key: a.value.string_value for one in resources for a in one.resource.attributes}
    assert names["service.name"] == "probe"
