"""The committed description of the API is the one that is served, and breaks no client of the released one."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from local_platform.openapi import render
from tests.clients.breaking_changes import breaking_changes

ROOT = Path(__file__).parents[2]
CURRENT = ROOT / "docs/openapi.json"
RELEASED = ROOT / "clients/typescript/released/openapi.json"
"""The description from which the newest released client was generated."""

Document = dict[str, Any]
Change = Callable[[Document], object]


def test_the_committed_description_is_the_one_that_is_served() -> None:
    assert CURRENT.read_text(encoding="utf-8") == render(), "run `make client`"


def test_no_client_of_the_released_description_breaks() -> None:
    assert breaking_changes(json.loads(RELEASED.read_text()), json.loads(CURRENT.read_text())) == []


def properties(document: Document, schema: str) -> Document:
    found: Document = document["components"]["schemas"][schema]["properties"]
    return found


BREAKING: dict[str, Change] = {
    "POST /v1/quotes is gone": lambda d: d["paths"].pop("/v1/quotes"),
    "GET /v1/balance: getBalance is called readBalance now": lambda d: d["paths"]["/v1/balance"]["get"].update(
        operationId="readBalance"
    ),
    "GET /v1/generations: the parameter kind (query) is gone": lambda d: d["paths"]["/v1/generations"]["get"].update(
        parameters=[one for one in d["paths"]["/v1/generations"]["get"]["parameters"] if one["name"] != "kind"]
    ),
    "GET /v1/ledger: the parameter limit is required now": lambda d: next(
        one for one in d["paths"]["/v1/ledger"]["get"]["parameters"] if one["name"] == "limit"
    ).update(required=True),
    "POST /v1/uploads body UploadRequest.name is required now": lambda d: d["components"]["schemas"]["UploadRequest"][
        "required"
    ].append("name"),
    "POST /v1/uploads body UploadRequest.content_type: the value image/webp is gone": lambda d: properties(
        d, "UploadRequest"
    )["content_type"]["enum"].remove("image/webp"),
    "POST /v1/uploads body UploadRequest.size_bytes: maximum is 1 now": lambda d: properties(d, "UploadRequest")[
        "size_bytes"
    ].update(maximum=1),
    "GET /v1/balance 200 Balance.settled_credits is gone": lambda d: properties(d, "Balance").pop("settled_credits"),
    "GET /v1/balance 200 Balance.settled_credits may be missing now": lambda d: d["components"]["schemas"]["Balance"][
        "required"
    ].remove("settled_credits"),
    "GET /v1/balance 200 Balance.settled_credits may be null now": lambda d: properties(d, "Balance").update(
        settled_credits={"anyOf": [{"type": "integer"}, {"type": "null"}]}
    ),
    "GET /v1/balance 200 Balance.settled_credits may be string now": lambda d: properties(d, "Balance").update(
        settled_credits={"type": "string"}
    ),
    "GET /v1/ledger 200 LedgerPage.items[] LedgerLine.reason: the value bonus is gone": lambda d: properties(
        d, "LedgerLine"
    )["reason"]["enum"].remove("bonus"),
    "POST /v1/generations does not answer 202 any more": lambda d: d["paths"]["/v1/generations"]["post"][
        "responses"
    ].pop("202"),
    "GET /v1/events 200 StreamedEvent: payment.updated is gone": lambda d: d["components"]["schemas"]["StreamedEvent"][
        "oneOf"
    ].pop(1),
    "GET /v1/balance 401 Problem insufficient_credits.required may be missing now": lambda d: next(
        one
        for one in d["components"]["schemas"]["Problem"]["oneOf"]
        if one["properties"]["code"]["const"] == "insufficient_credits"
    )["required"].remove("required"),
}


@pytest.mark.parametrize("sentence", BREAKING)
def test_a_change_that_breaks_clients_is_named(sentence: str) -> None:
    old = json.loads(CURRENT.read_text())
    new = deepcopy(old)
    BREAKING[sentence](new)
    assert sentence in breaking_changes(old, new)


HARMLESS: dict[str, Change] = {
    "a new path": lambda d: d["paths"].update({"/v1/new": d["paths"]["/v1/quotes"]}),
    "a new field in an answer": lambda d: properties(d, "Balance").update(new={"type": "integer"}),
    "a new optional field in a body": lambda d: properties(d, "QuoteRequest").update(new={"type": "integer"}),
    "a new value that clients are sent": lambda d: properties(d, "LedgerLine")["reason"]["enum"].append("gift"),
    "a larger limit": lambda d: properties(d, "UploadRequest")["size_bytes"].update(maximum=10**9),
    "another description": lambda d: properties(d, "Quote")["price_credits"].update(description="Whole credits."),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_a_change_that_breaks_no_client_is_let_through(change: Change) -> None:
    old = json.loads(CURRENT.read_text())
    new = deepcopy(old)
    change(new)
    assert old != new
    assert breaking_changes(old, new) == []
