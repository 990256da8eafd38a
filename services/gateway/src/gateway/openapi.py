"""The machine-readable description of the API: clients are generated from it."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.errors import NotAuthenticated, SignInUnavailable
from gateway.examples import EXAMPLES
from service_runtime.problems import CONTENT_TYPE, InvalidRequest, MalformedRequest, Problem

Responses = dict[int | str, dict[str, Any]]

_PUBLIC: Final = ("listModels", "listCreditPacks")
_UNUSED_SCHEMAS: Final = ("HTTPValidationError", "ValidationError")
_TEXT: Final = {"type": "string"}
_CREDITS: Final = {"type": "integer"}
_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "RFC 9457. Decide by `code`; docs/api.md says which of the optional members come with which.",
    "required": ["type", "title", "status", "code", "retryable", "instance"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "code": _TEXT | {"description": "Stable."},
        "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
        "instance": _TEXT | {"description": "The path that was asked for."},
        "detail": _TEXT | {"description": "For people."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "code", "message"],
                "properties": {"field": _TEXT, "code": _TEXT, "message": _TEXT},
            },
        },
        "required": _CREDITS,
        "available": _CREDITS,
        "price_credits": _CREDITS,
        "max_price_credits": _CREDITS,
        "generation_id": _TEXT,
        "status_of_generation": _TEXT,
        "payment_id": _TEXT,
        "reason": _TEXT,
        "max_bytes": {"type": "integer"},
        "trace_id": _TEXT,
    },
}
_CONTENT: Final = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


def refusals(*kinds: type[Problem]) -> Responses:
    """The problems of one route, for its ``responses``; those of every route are added later."""
    responses: Responses = {}
    for kind in kinds:
        _add(responses, kind)
    return responses


def describe(app: FastAPI) -> dict[str, Any]:
    """The framework's description, with the bearer token and every problem in the shape that is sent."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = document["components"]
    components["securitySchemes"] = {"supabase": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    for name in _UNUSED_SCHEMAS:
        components["schemas"].pop(name, None)
    components["schemas"]["Problem"] = dict(_PROBLEM)
    # Added here, because the framework drops every null of an example.
    for name, example in EXAMPLES.items():
        components["schemas"][name]["example"] = example
    for methods in document["paths"].values():
        for operation in methods.values():
            _complete(operation)
    app.openapi_schema = document
    return document


def _complete(operation: dict[str, Any]) -> None:
    responses: Responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):
        del responses["422"]
    parameters = operation.get("parameters", ())
    for parameter in parameters:
        # Optional only to the framework: without it the answer is a problem of our own.
        if parameter["name"].lower() == "idempotency-key":
            [text] = [one for one in parameter["schema"].pop("anyOf") if one["type"] != "null"]
            parameter["schema"] |= text
            parameter["required"] = True
    if parameters or "requestBody" in operation:
        _add(responses, InvalidRequest)
    if "requestBody" in operation:
        _add(responses, MalformedRequest)
    if operation["operationId"] not in _PUBLIC:
        operation["security"] = [{"supabase": []}]
        _add(responses, NotAuthenticated)
        _add(responses, SignInUnavailable)
    responses["default"] = {"description": "A problem.", "content": _CONTENT}


def _add(responses: Responses, kind: type[Problem]) -> None:
    status = str(kind.status)
    line = f"`{kind.code}`: {(kind.__doc__ or kind.title).splitlines()[0]}"
    before = responses.get(status, {}).get("description")
    description = line if before is None else f"{before}\n\n{line}"
    responses[status] = {"description": description, "content": _CONTENT}
