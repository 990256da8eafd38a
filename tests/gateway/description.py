"""Checks every answer of the API against its own OpenAPI description."""

import re
from functools import cache
from typing import Any

import httpx
from jsonschema import Draft202012Validator

from gateway.events import STREAMED
from gateway.openapi import GENERAL_PROBLEMS
from local_platform.openapi import describe_api
from service_runtime.problems import InvalidRequest

UNDESCRIBED = {kind.code for kind in GENERAL_PROBLEMS - {InvalidRequest}}
"""Problems that are not listed at each operation."""


@cache
def described() -> dict[str, Any]:
    """The description that every gateway serves; to make it takes half a second of processor time."""
    return describe_api()


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    """A validator for a schema of the document. It resolves references."""
    return Draft202012Validator(schema | {"components": document["components"]})


def check_event(document: dict[str, Any], event: dict[str, Any]) -> None:
    """Fail if a client generated from ``document`` could not read ``event``, one of the stream."""
    validator(document, {"$ref": "#/components/schemas/StreamedEvent"}).validate(event)
    schema = document["components"]["schemas"][STREAMED[event["event"]].__name__]
    unknown = set(event["data"]) - set(schema["properties"])
    assert not unknown, f"{event['event']}: undocumented members {unknown}"


async def check_answer(document: dict[str, Any], answer: httpx.Response) -> None:
    """Fail if a client generated from ``document`` could not read ``answer``."""
    operation = _operation(document, answer.request)
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if operation is None or kind == "text/event-stream":
        return
    where = f"{operation['operationId']}: {answer.status_code}"
    if answer.is_error:
        assert kind == "application/problem+json", where
        await answer.aread()
        problem = answer.json()
        validator(document, {"$ref": "#/components/schemas/Problem"}).validate(problem)
        documented = operation["responses"].get(str(answer.status_code), {}).get("description", "")
        assert problem["code"] in UNDESCRIBED or f"`{problem['code']}`:" in documented, f"{where} {problem['code']}"
        extra = set(problem) - set(document["components"]["schemas"]["Problem"]["properties"])
        assert not extra, f"{where}: undocumented members {extra}"
        return
    response = operation["responses"][str(answer.status_code)]
    if answer.status_code not in (httpx.codes.NOT_MODIFIED, httpx.codes.NO_CONTENT):
        content = response["content"][kind]
        if kind == "application/json":
            await answer.aread()
            validator(document, content["schema"]).validate(answer.json())


def _operation(document: dict[str, Any], request: httpx.Request) -> dict[str, Any] | None:
    for path, methods in document["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))
        if re.fullmatch(pattern, request.url.path):
            found: dict[str, Any] | None = methods.get(request.method.lower())
            return found
    return None
