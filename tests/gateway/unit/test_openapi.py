"""The machine-readable description: generated clients depend on it."""

import re
from typing import Any, get_args
from uuid import UUID

import msgspec
import pytest
from jsonschema import ValidationError

from catalogue.pricing import PriceRule
from contracts.payments import PaymentRefusalCode
from contracts.values import MovementReason
from gateway.events import STREAMED, FailureCode
from gateway.examples import ANSWERS
from gateway.openapi import MEMBERS, OWN_PROBLEMS
from local_platform.openapi import describe_api
from service_runtime.problems import InvalidRequest, MalformedRequest, UnsupportedMediaType
from tests.gateway.description import check_event, validator

PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
WITHOUT_EXAMPLE = {
    "Download",
    "Failure",
    "Model",
    "PreviewPicture",
    "PostingReceipt",
    "ProblemField",
    "QuoteLine",
    "QuoteTerms",
    "ResolutionTier",
    "Licence",
    "StepSurcharge",
    "Surcharges",
    "Tier",
    "Variant",
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
    "repeatGeneration": "POST /v1/generations/{generation_id}/repeat",
    "deleteGeneration": "DELETE /v1/generations/{generation_id}",
    "streamEvents": "GET /v1/events",
    "getBalance": "GET /v1/balance",
    "getUsage": "GET /v1/usage",
    "getLedger": "GET /v1/ledger",
    "getLedgerReceipt": "GET /v1/ledger/{line_number}/receipt",
    "listLedgerHeads": "GET /v1/ledger/heads",
    "getLedgerConsistency": "GET /v1/ledger/heads/{tree_size}/consistency",
    "createPayment": "POST /v1/payments",
    "listPayments": "GET /v1/payments",
    "getPayment": "GET /v1/payments/{payment_id}",
    "getPaymentTimeline": "GET /v1/payments/{payment_id}/timeline",
    "createUpload": "POST /v1/uploads",
    "verifyFile": "POST /v1/verify",
}
"""To rename or remove one breaks every generated client."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """What is served at /openapi.json."""
    return describe_api()


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


def test_every_operation_may_be_limited_and_says_how(document: dict[str, Any]) -> None:
    for route, operation in operations(document):
        limited = operation["responses"]["429"]
        assert "`rate_limited`:" in limited["description"], route
        assert set(limited["headers"]) == {"RateLimit", "RateLimit-Policy", "Retry-After"}, route


def test_every_problem_is_documented_where_it_can_happen(document: dict[str, Any]) -> None:
    documented: set[tuple[str, str]] = set()
    for _, operation in operations(document):
        for status, response in operation["responses"].items():
            documented |= {(status, code) for code in re.findall(r"^`(\w+)`:", response["description"], re.MULTILINE)}
    of_bodies = {InvalidRequest, MalformedRequest, UnsupportedMediaType}
    assert documented == {(str(kind.status), kind.code) for kind in OWN_PROBLEMS | of_bodies}


def documented_codes(document: dict[str, Any], operation_id: str) -> set[str]:
    [responses] = [one["responses"] for _, one in operations(document) if one["operationId"] == operation_id]
    return {
        code
        for response in responses.values()
        for code in re.findall(r"^`(\w+)`:", response["description"], re.MULTILINE)
    }


def test_a_repetition_is_refused_with_all_that_an_order_is_refused_with(document: dict[str, Any]) -> None:
    repeated = documented_codes(document, "repeatGeneration")
    assert repeated == documented_codes(document, "createGeneration") | {"generation_not_found"}


def test_the_price_of_the_example_has_the_names_that_are_sent() -> None:
    [model] = ANSWERS["listModels"]["items"]
    for priced in (model, *model["tiers"]):
        msgspec.convert(priced["price"], PriceRule, strict=True)


def test_every_example_matches_its_schema(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    examples = [name for name, schema in schemas.items() if "example" in schema]
    for name in examples:
        validator(document, {"$ref": f"#/components/schemas/{name}"}).validate(schemas[name]["example"])
    pages = {name for name, schema in schemas.items() if "items" in schema.get("properties", {})}
    assert set(schemas) - set(examples) - pages == WITHOUT_EXAMPLE


def test_every_answer_has_an_example_that_matches_its_schema(document: dict[str, Any]) -> None:
    seen = set()
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            content = response.get("content", {}).get("application/json")
            if content is None or not status.startswith("2"):
                continue
            schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
            example = content.get("example", schema.get("example"))
            assert example is not None, name
            validator(document, content["schema"]).validate(example)
            seen.add(operation["operationId"])
    assert set(OPERATIONS) - seen == {"deleteGeneration", "streamEvents"}
    assert set(ANSWERS) <= seen


def test_a_key_is_text_and_never_null(document: dict[str, Any]) -> None:
    keys = [
        one["schema"]
        for _, operation in operations(document)
        for one in operation.get("parameters", [])
        if one["name"].lower() == "idempotency-key"
    ]
    assert [key["type"] for key in keys] == ["string"] * 3


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
        takes_one = route in ("POST /v1/generations", OPERATIONS["repeatGeneration"], "POST /v1/payments")
        assert ("idempotency-key" in required) is takes_one, route


def test_the_stream_is_described_event_by_event(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    assert content["schema"] == {"$ref": "#/components/schemas/StreamedEvent"}
    events = document["components"]["schemas"]["StreamedEvent"]["oneOf"]
    assert [event["properties"]["event"]["const"] for event in events] == list(STREAMED)


MALFORMED_EVENTS: dict[str, dict[str, Any]] = {
    "an unknown name": {"event": "generation.deleted"},
    "an unknown status": {"data": {"status": "done"}},
    "an unknown failure code": {"data": {"code": "no_idea"}},
    "no time": {"data": {"at": None}},
    "no id": {"id": None},
}


@pytest.mark.parametrize("change", MALFORMED_EVENTS.values(), ids=MALFORMED_EVENTS)
def test_an_event_that_breaks_its_schema_is_noticed(document: dict[str, Any], change: dict[str, Any]) -> None:
    data = {"generation_id": str(UUID(int=1)), "name": "failed", "status": "failed", "version": 3, "at": "2026-11-23"}
    event = {"event": "generation.updated", "id": "7", "data": data}
    check_event(document, event)
    broken = {**event, **change, "data": {**data, **change.get("data", {})}}
    broken = {name: value for name, value in broken.items() if value is not None}
    with pytest.raises((ValidationError, KeyError)):
        check_event(document, broken)


def test_failure_codes_reasons_and_problem_codes_are_enumerations(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    failures = set(schemas["Failure"]["properties"]["code"]["enum"])
    assert failures == set(get_args(FailureCode))
    assert failures == set(schemas["GenerationUpdated"]["properties"]["code"]["enum"])
    for schema in ("LedgerLine", "BalanceUpdated"):
        assert set(schemas[schema]["properties"]["reason"]["enum"]) == set(get_args(MovementReason))
    problem = schemas["Problem"]["properties"]
    assert {kind.code for kind in OWN_PROBLEMS} < set(problem["code"]["enum"])
    assert set(problem["reason"]["enum"]) == set(get_args(PaymentRefusalCode))


def test_a_problem_is_told_by_its_code_and_has_what_comes_with_it(document: dict[str, Any]) -> None:
    problem = document["components"]["schemas"]["Problem"]
    kinds = {kind["properties"]["code"]["const"]: set(kind["required"]) for kind in problem["oneOf"]}
    assert set(kinds) == set(problem["properties"]["code"]["enum"])
    assert {kind.code: {"code", *members} for kind, members in MEMBERS.items()}.items() <= kinds.items()
    check = validator(document, {"$ref": "#/components/schemas/Problem"})
    check.validate(problem["example"])
    with pytest.raises(ValidationError):
        check.validate({name: value for name, value in problem["example"].items() if name != "available"})
