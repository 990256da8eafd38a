"""What surrounds every public application."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Request
from prometheus_client import REGISTRY
from starlette.responses import HTMLResponse, StreamingResponse

from service_runtime.fastapi_problems import install_fastapi
from service_runtime.http_middleware import BodySizeLimit, RequestObservation
from service_runtime.tracing import configure_tracing, current_trace_id
from tests.service_runtime.settings import settings


def app() -> FastAPI:
    app = FastAPI()
    install_fastapi(app)

    @app.post("/echo/{name}")
    async def echo(name: str, request: Request) -> int:
        return len(await request.body())

    @app.post("/json")
    async def parsed(body: dict[str, str]) -> int:
        return len(body)

    @app.get("/trace")
    async def trace() -> str | None:
        return current_trace_id()

    @app.get("/page")
    async def page() -> HTMLResponse:
        return HTMLResponse("<!doctype html>", headers={"Referrer-Policy": "same-origin"})

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("the rest is lost")

        return StreamingResponse(parts())

    return app


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    configure_tracing("probe", settings())
    transport = httpx.ASGITransport(
        RequestObservation(BodySizeLimit(app(), max_bytes=100, larger={"/echo/large": 200}))
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://probe") as client:
        yield client


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 30


async def test_a_body_at_the_limit_is_taken(client: httpx.AsyncClient) -> None:
    response = await client.post("/echo/a", content=b"x" * 100)
    assert response.json() == 100


async def test_a_body_that_says_it_is_too_large_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/echo/a", content=b"x" * 101)
    assert response.status_code == 413
    assert response.json()["code"] == "body_too_large"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json()["max_bytes"] == 100


@pytest.mark.parametrize("path", ["/echo/a", "/json"])
async def test_a_body_that_does_not_say_how_large_it_is_is_counted(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.post(path, content=chunks(4))).status_code == 413


async def test_a_path_may_take_larger_bodies(client: httpx.AsyncClient) -> None:
    assert (await client.post("/echo/large", content=b"x" * 200)).json() == 200
    refused = await client.post("/echo/large", content=b"x" * 201)
    assert (refused.status_code, refused.json()["max_bytes"]) == (413, 200)


async def test_a_request_continues_the_trace_of_its_caller(client: httpx.AsyncClient) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    response = await client.get("/trace", headers={"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"})
    assert response.json() == trace_id
    assert response.headers["trace-id"] == trace_id


async def test_requests_are_counted_by_route_and_not_by_address(client: httpx.AsyncClient) -> None:
    def count(route: str) -> float:
        labels = {"method": "POST", "route": route, "status": "200"}
        return REGISTRY.get_sample_value("http_request_seconds_count", labels) or 0.0

    before = count("/echo/{name}")
    for name in "abc":
        await client.post(f"/echo/{name}", content=b"x")
    assert count("/echo/{name}") == before + 3
    assert count("/echo/a") == 0


async def test_an_answer_that_breaks_in_the_middle_is_not_passed_off_as_whole(client: httpx.AsyncClient) -> None:
    with pytest.raises(RuntimeError, match="the rest is lost"):
        await client.get("/half")


async def test_every_answer_tells_browsers_to_be_careful(client: httpx.AsyncClient) -> None:
    for answer in (
        await client.get("/trace"),
        await client.get("/nowhere"),
        await client.post("/echo/a", content=b"x" * 200),
    ):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert "Strict-Transport-Security" not in answer.headers, "this connection is not encrypted"
    page = await client.get("/page")
    assert "Content-Security-Policy" not in page.headers, "a page brings its own"
    assert page.headers.get_list("Referrer-Policy") == ["same-origin"], "what an answer says itself stands"
    encrypted = await client.get("https://probe/trace")
    assert encrypted.headers["Strict-Transport-Security"] == "max-age=31536000"
