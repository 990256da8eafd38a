"""The machine-readable description: generated clients depend on it."""

import re
from typing import Any

import pytest

from gateway.main import build
from gateway.settings import Settings
from service_runtime.problems import InvalidRequest, MalformedRequest
from tests.gateway.description import OWN, validator

PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
WITHOUT_EXAMPLE = {
    "Download",
    "Failure",
    "Model",
    "QuoteLine",
    "ResolutionTier",
    "StepSurcharge",
    "Surcharges",
}
"""Part of other examples, or public at /v1/models."""

OPERATIONS = {
    "listModels": "GET /v1/models",
    "listCreditPacks": "GET /v1/credit-packs",
    "createQuote": "POST /v1/quotes",
    "createGeneration": "POST /v1/generations",
    "listGenerations": "GET /v1/generations",
    "getGeneration": "GET /v1/generations/{generation_id}",
    "getGenerationTimeline": "GET /v1/generations/{generation_id}/timeline",
    "cancelGeneration": "POST /v1/generations/{generation_id}/cancel",
    "streamEvents": "GET /v1/events",
    "getBalance": "GET /v1/balance",
    "getLedger": "GET /v1/ledger",
    "createPayment": "POST /v1/payments",
    "listPayments": "GET /v1/payments",
    "getPayment": "GET /v1/payments/{payment_id}",
    "getPaymentTimeline": "GET /v1/payments/{payment_id}/timeline",
    "createUpload": "POST /v1/uploads",
}
"""To rename or remove one breaks every generated client."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """What is served at /openapi.json."""
    settings = Settings.model_validate(
        {
            "database_url": "postgresql://unused",
            "nats_url": "nats://unused",
            "nats_user": "gateway",
            "nats_password": "unused",
            "ops_port": 0,
            "http_port": 0,
            "jwt_issuer": "https://unused",
            "jwks_url": "https://unused",
            "s3_endpoint_url": "http://unused",
            "s3_access_key_id": "unused",
            "s3_secret_access_key": "unused",
        }
    )
    return build(settings).app.openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_the_operations_are_those_that_clients_were_generated_from(document: dict[str, Any]) -> None:
    assert {operation["operationId"]: route for route, operation in operations(document)} == OPERATIONS


def test_every_operation_has_a_description_and_its_problems(document: dict[str, Any]) -> None:
    for route, operation in operations(document):
        assert operation["description"], route
        problem = operation["responses"]["default"]["content"]["application/problem+json"]["schema"]
        assert problem == {"$ref": "#/components/schemas/Problem"}, route
        for status, response in operation["responses"].items():
            if status >= "4":
                assert response["content"] == PROBLEM, f"{route}: {status}"
    assert {"code", "retryable"} <= set(document["components"]["schemas"]["Problem"]["required"])


def test_every_problem_is_documented_where_it_can_happen(document: dict[str, Any]) -> None:
    documented: set[tuple[str, str]] = set()
    for _, operation in operations(document):
        for status, response in operation["responses"].items():
            documented |= {(status, code) for code in re.findall(r"^`(\w+)`:", response["description"], re.MULTILINE)}
    assert documented == {(str(kind.status), kind.code) for kind in OWN | {InvalidRequest, MalformedRequest}}


def test_every_example_matches_its_schema(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    examples = [name for name, schema in schemas.items() if "example" in schema]
    for name in examples:
        validator(document, {"$ref": f"#/components/schemas/{name}"}).validate(schemas[name]["example"])
    pages = {name for name, schema in schemas.items() if "items" in schema["properties"]}
    assert set(schemas) - set(examples) - pages == WITHOUT_EXAMPLE


def test_a_key_is_text_and_never_null(document: dict[str, Any]) -> None:
    keys = [
        one["schema"]
        for _, operation in operations(document)
        for one in operation.get("parameters", [])
        if one["name"].lower() == "idempotency-key"
    ]
    assert [key["type"] for key in keys] == ["string", "string"]


def test_every_reference_resolves_and_every_schema_is_used(document: dict[str, Any]) -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            found = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            return found + [reference for value in part.values() for reference in references(value)]
        return [reference for value in part for reference in references(value)] if isinstance(part, list) else []

    schemas = document["components"]["schemas"]
    assert {reference.rpartition("/")[2] for reference in references(document)} == set(schemas)


def test_every_purchase_and_order_takes_a_key(document: dict[str, Any]) -> None:
    for route, operation in operations(document):
        required = {one["name"].lower() for one in operation.get("parameters", []) if one["required"]}
        assert ("idempotency-key" in required) is (route in ("POST /v1/generations", "POST /v1/payments")), route
