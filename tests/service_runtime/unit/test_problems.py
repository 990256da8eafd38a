"""Every failure that a caller sees is a problem document with a stable code, from both frameworks."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI
from litestar import Litestar, get, post
from pydantic import BaseModel, Field, RootModel

from service_runtime.fastapi_problems import install_fastapi
from service_runtime.http_middleware import RequestObservation
from service_runtime.litestar_problems import install_litestar_handlers
from service_runtime.problems import MAX_ERRORS, InvalidRequest, Problem, encode_problem, named_errors, problem_body
from service_runtime.tracing import configure_tracing
from tests.service_runtime.settings import settings


class NotEnoughCredits(Problem):
    code = "insufficient_credits"
    title = "Not enough credits"
    status = 402


class Order(BaseModel):
    seconds: int = Field(ge=1)
    prompt: str


class Numbers(RootModel[list[int]]):
    pass


def fastapi_app() -> FastAPI:
    app = FastAPI()
    install_fastapi(app)

    @app.get("/refused")
    async def refused() -> None:
        raise NotEnoughCredits("10 are needed", required=10, available=3)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("password=hunter22")

    @app.post("/orders")
    async def orders(order: Order) -> None:
        pass

    @app.post("/numbers")
    async def numbers(numbers: list[int]) -> None:
        pass

    return app


def litestar_app() -> Litestar:
    @get("/refused")
    async def refused() -> None:
        raise NotEnoughCredits("10 are needed", required=10, available=3)

    @get("/broken")
    async def broken() -> None:
        raise RuntimeError("password=hunter22")

    @post("/orders")
    async def orders(data: Annotated[Order, "body"]) -> None:
        pass

    @post("/numbers")
    async def numbers(data: Annotated[Numbers, "body"]) -> None:
        pass

    return Litestar(
        [refused, broken, orders, numbers],
        exception_handlers=install_litestar_handlers(),
        openapi_config=None,
        logging_config=None,
    )


@pytest.fixture(params=[fastapi_app, litestar_app])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    configure_tracing("probe", settings())
    transport = httpx.ASGITransport(RequestObservation(request.param()))
    async with httpx.AsyncClient(transport=transport, base_url="http://probe") as client:
        yield client


def document(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == response.status_code
    return body


async def test_no_cache_keeps_a_refusal(client: httpx.AsyncClient) -> None:
    for path in ("/refused", "/nowhere", "/orders"):
        assert (await client.get(path)).headers["Cache-Control"] == "no-store", path


def test_the_members_of_a_problem_document() -> None:
    assert problem_body(NotEnoughCredits("10 are needed", required=10), "/v1/generations") == {
        "type": "urn:reelhouse:problem:insufficient-credits",
        "title": "Not enough credits",
        "status": 402,
        "code": "insufficient_credits",
        "retryable": False,
        "instance": "/v1/generations",
        "detail": "10 are needed",
        "required": 10,
    }


async def test_a_business_failure_is_told_with_its_own_members(client: httpx.AsyncClient) -> None:
    body = document(await client.get("/refused"))
    assert body["code"] == "insufficient_credits"
    assert (body["required"], body["available"], body["instance"]) == (10, 3, "/refused")


async def test_an_unknown_route_is_404(client: httpx.AsyncClient) -> None:
    assert document(await client.get("/nowhere"))["code"] == "not_found"


async def test_a_wrong_method_is_405_and_says_which_are_right(client: httpx.AsyncClient) -> None:
    response = await client.delete("/refused")
    assert document(response)["code"] == "method_not_allowed"
    assert "GET" in response.headers["allow"]


async def test_wrong_input_is_422_and_names_each_field(client: httpx.AsyncClient) -> None:
    body = document(await client.post("/orders", json={"seconds": 0}))
    assert body["code"] == "invalid_request"
    assert body["status"] == 422
    assert {error["field"] for error in body["errors"]} == {"seconds", "prompt"}
    assert all(error["code"] and error["message"] for error in body["errors"])


def test_the_fields_and_texts_of_a_problem_are_cut() -> None:
    errors = named_errors((f"{number}" + "f" * 10_000, "invalid", "m" * 10_000) for number in range(5000))
    body = encode_problem(InvalidRequest("d" * 10_000, errors=errors), "/" + "p" * 10_000)
    assert len(errors) == MAX_ERRORS
    assert len(body) < 25_000


async def test_five_thousand_wrong_fields_get_a_short_answer(client: httpx.AsyncClient) -> None:
    response = await client.post("/numbers", json=["x"] * 5000)
    assert len(document(response)["errors"]) == MAX_ERRORS
    assert len(response.content) < 10_000


async def test_broken_json_is_400(client: httpx.AsyncClient) -> None:
    response = await client.post("/orders", content=b"{", headers={"content-type": "application/json"})
    assert document(response)["code"] == "malformed_request"


async def test_the_unexpected_leaks_nothing_but_a_trace_id(client: httpx.AsyncClient) -> None:
    response = await client.get("/broken")
    body = document(response)
    assert body["code"] == "internal_error"
    assert "hunter22" not in response.text
    assert body["trace_id"] == response.headers["trace-id"]
    assert set(body) == {"type", "title", "status", "code", "retryable", "instance", "trace_id"}
