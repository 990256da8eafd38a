"""The machine-readable description of the API: clients are generated from it."""

from inspect import cleandoc
from typing import Any, Final, get_args

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from contracts.payments import PaymentRefusalCode
from gateway import errors
from gateway.errors import NotAuthenticated, RateLimited, SignInUnavailable
from gateway.events import LIVE_EVENTS, STREAMED
from gateway.examples import ANSWERS, EXAMPLES
from gateway.statuses import GenerationStatus
from service_runtime.problems import (
    CONTENT_TYPE,
    MAX_ERRORS,
    BodyTooLarge,
    HeadersTooLarge,
    InternalError,
    InvalidRequest,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    Problem,
    Unavailable,
    UnsupportedMediaType,
)

Responses = dict[int | str, dict[str, Any]]

_PUBLIC: Final = ("listModels", "listCreditPacks", "verifyFile")
_UNUSED_SCHEMAS: Final = ("HTTPValidationError", "ValidationError")
GENERAL_PROBLEMS: Final[frozenset[type[Problem]]] = frozenset(
    {
        MalformedRequest,
        InvalidRequest,
        NotFound,
        MethodNotAllowed,
        BodyTooLarge,
        HeadersTooLarge,
        UnsupportedMediaType,
        InternalError,
        Unavailable,
    }
)
"""Problems that any route may answer, besides the gateway's own."""
OWN_PROBLEMS: Final[frozenset[type[Problem]]] = frozenset(
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, Problem) and kind is not Problem
)
_CODES: Final = sorted(kind.code for kind in GENERAL_PROBLEMS | OWN_PROBLEMS)
MEMBERS: Final[dict[type[Problem], tuple[str, ...]]] = {
    errors.InsufficientCredits: ("required", "available", "generation_id"),
    errors.AccountFrozen: ("required", "available", "generation_id"),
    errors.PriceAboveLimit: ("price_credits", "max_price_credits"),
    errors.GenerationEnded: ("status_of_generation",),
    errors.GenerationUnderWay: ("status_of_generation",),
    errors.GenerationDeleted: ("deleted_at",),
    errors.PaymentRefusedProblem: ("reason", "payment_id"),
    errors.InvalidModelParameters: ("errors",),
    InvalidRequest: ("errors",),
}
"""The members that a problem always has, besides those of every problem."""
_TEXT: Final = {"type": "string"}
_UUID: Final = {"type": "string", "format": "uuid"}
_CREDITS: Final = {"type": "integer"}
_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "RFC 9457. Decide by `code`; docs/api.md says which of the optional members come with which.",
    "required": ["type", "title", "status", "code", "retryable", "instance"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "code": _TEXT | {"description": "Stable.", "enum": _CODES},
        "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
        "instance": _TEXT | {"description": "The path that was asked for."},
        "detail": _TEXT | {"description": "For people."},
        "errors": {
            "type": "array",
            "maxItems": MAX_ERRORS,
            "items": {"$ref": "#/components/schemas/ProblemField"},
        },
        "required": _CREDITS,
        "available": _CREDITS,
        "price_credits": _CREDITS,
        "max_price_credits": _CREDITS,
        "generation_id": _UUID,
        "status_of_generation": _TEXT | {"enum": list(get_args(GenerationStatus))},
        "deleted_at": _TEXT | {"format": "date-time"},
        "payment_id": _UUID,
        "reason": _TEXT | {"enum": list(get_args(PaymentRefusalCode))},
        "max_bytes": {"type": "integer"},
        "trace_id": _TEXT,
    },
}
_PROBLEM_FIELD: Final[dict[str, Any]] = {
    "type": "object",
    "description": "What is wrong with one field of the request.",
    "required": ["field", "code", "message"],
    "properties": {"field": _TEXT, "code": _TEXT, "message": _TEXT},
}
_LIMIT_HEADERS: Final[dict[str, Any]] = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}},
    "RateLimit-Policy": {
        "description": 'The limits of this request, as `"writes";q=120;w=60`: `q` in `w` seconds.',
        "schema": _TEXT,
    },
    "RateLimit": {
        "description": 'What remains of them, as `"writes";r=117;t=1`: `r`, for the next `t` seconds.',
        "schema": _TEXT,
    },
}
"""Of a 429. Answers that are not refused have the last two, as well."""
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
    components["schemas"]["Problem"] = {**_PROBLEM, "oneOf": [_problem_of(code) for code in _CODES]}
    components["schemas"]["ProblemField"] = _PROBLEM_FIELD
    components["schemas"] |= _event_schemas()
    for methods in document["paths"].values():
        for operation in methods.values():
            _name_body(components["schemas"], operation)
    # Added here, because the framework drops every null of an example.
    for name, example in EXAMPLES.items():
        components["schemas"][name]["example"] = example
    for methods in document["paths"].values():
        for operation in methods.values():
            _complete(operation)
    app.openapi_schema = document
    return document


def _name_body(schemas: dict[str, Any], operation: dict[str, Any]) -> None:
    """A body that a route reads itself has its schema in place: give it a name, as the framework does elsewhere."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        name = content["schema"].get("title")
        if name is not None:
            schemas[name] = content["schema"]
            content["schema"] = {"$ref": f"#/components/schemas/{name}"}


def _problem_of(code: str) -> dict[str, Any]:
    """What is particular to the problem with this code: clients tell problems apart by it."""
    members = next((members for kind, members in MEMBERS.items() if kind.code == code), ())
    properties = {"code": _TEXT | {"const": code}, **{name: _PROBLEM["properties"][name] for name in members}}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _event_schemas() -> dict[str, Any]:
    """The data of every event of the stream, and the event as one of them, told apart by its name."""
    _, schemas = msgspec.json.schema_components(STREAMED.values(), ref_template="#/components/schemas/{name}")
    for name, kind in STREAMED.items():
        schema = schemas[kind.__name__]
        schema["description"] = cleandoc(schema["description"])
        for member in schema["properties"].values():
            if "enum" in member:
                member["type"] = "string"
        if name not in LIVE_EVENTS:
            schema["properties"]["at"] = {"type": "string", "format": "date-time"}
            schema["required"].append("at")
    schemas["StreamedEvent"] = {
        "title": "StreamedEvent",
        "description": "One event of `GET /v1/events`. Those with an `id` can be resumed from.",
        "oneOf": [_event_schema(name, kind.__name__) for name, kind in STREAMED.items()],
    }
    return schemas


def _event_schema(name: str, data: str) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "event": _TEXT | {"const": name},
        "data": {"$ref": f"#/components/schemas/{data}"},
    }
    if name not in LIVE_EVENTS:
        properties["id"] = _TEXT | {"pattern": "^[0-9]+$", "description": "Send the last one as `Last-Event-ID`."}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _complete(operation: dict[str, Any]) -> None:
    responses: Responses = operation["responses"]
    for status, response in responses.items():
        content = response.get("content", {}).get("application/json")
        if content is not None and str(status).startswith("2") and operation["operationId"] in ANSWERS:
            content["example"] = ANSWERS[operation["operationId"]]
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
        _add(responses, UnsupportedMediaType)
    _add(responses, RateLimited)
    responses["429"]["headers"] = _LIMIT_HEADERS
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
