"""Failures that a caller is told about: RFC 9457 problem details with stable codes.

This module imports no web framework. ``service_runtime.fastapi_problems`` and ``service_runtime.litestar_problems``
install the handlers; each needs its framework, which is a dependency of the service that uses it.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from itertools import islice
from typing import Any, ClassVar, Final

import msgspec

from service_runtime.redaction import redact

CONTENT_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:reelhouse:problem:"
MAX_ERRORS: Final = 20
"""How many fields a refusal names: a caller may have sent thousands."""
LONGEST_TEXT: Final = 500
"""Of a text in a problem: what was sent is repeated in some of them, and may be long."""


class Problem(Exception):
    """One way to fail; subclass it once per business failure. ``extra`` becomes further members of the body."""

    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Something went wrong on our side"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str | None = None, *, headers: Mapping[str, str] | None = None, **extra: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        # A cache may keep a 404 or 410 that says nothing about it, and a refusal can be about one user's things.
        self.headers: dict[str, str] = {"Cache-Control": "no-store", **(headers or {})}
        self.extra = extra


class InvalidRequest(Problem):
    """The request does not have the shape that this route documents; ``errors`` names each field."""

    code = "invalid_request"
    title = "The request is not valid"
    status = 422


class MalformedRequest(Problem):
    """The request could not even be read: broken JSON, a bad header."""

    code = "malformed_request"
    title = "The request cannot be read"
    status = 400


class Unauthorized(Problem):
    """No user is signed in."""

    code = "unauthorized"
    title = "Sign in first"
    status = 401


class Forbidden(Problem):
    """Signed in, and still not allowed."""

    code = "forbidden"
    title = "This is not allowed"
    status = 403


class NotFound(Problem):
    """Nothing is here, or nothing that this caller may see."""

    code = "not_found"
    title = "There is nothing here"
    status = 404


class MethodNotAllowed(Problem):
    """The route exists for other methods."""

    code = "method_not_allowed"
    title = "This address does not take this method"
    status = 405


class BodyTooLarge(Problem):
    """The request's body is larger than this listener takes."""

    code = "body_too_large"
    title = "The request's body is too large"
    status = 413


class UnsupportedMediaType(Problem):
    """The request's body is of another type than this address takes; the header ``Accept`` names it."""

    code = "unsupported_media_type"
    title = "This address takes another type of body"
    status = 415


class HeadersTooLarge(Problem):
    """The request's line and headers are larger than any listener takes."""

    code = "headers_too_large"
    title = "The request's headers are too large"
    status = 431


class TooManyRequests(Problem):
    """The caller is faster than its limit."""

    code = "too_many_requests"
    title = "Too many requests"
    status = 429
    retryable = True


class Unavailable(Problem):
    """A part that this request needs does not answer at the moment."""

    code = "unavailable"
    title = "This is not available at the moment"
    status = 503
    retryable = True


class InternalError(Problem):
    """Something unexpected; the caller learns the trace id and nothing else."""


_BY_STATUS: Final[dict[int, type[Problem]]] = {
    kind.status: kind
    for kind in (
        MalformedRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        BodyTooLarge,
        UnsupportedMediaType,
        InvalidRequest,
        TooManyRequests,
        Unavailable,
    )
}


class HttpProblem(Problem):
    """A bare HTTP status that a framework raised and that has no class of its own here; told apart per instance."""


def problem_of_status(status: int, detail: str | None, headers: Mapping[str, str] | None) -> Problem:
    """The problem for an HTTP status that a framework raised by itself (unknown route, wrong method, bad JSON).

    ``detail`` is what the framework says; it is left out where it only repeats the status, and of server errors.
    """
    if status == 500:
        return InternalError(headers=headers)
    phrase = HTTPStatus(status).phrase
    kind = _BY_STATUS.get(status, HttpProblem)
    problem = kind(detail if detail != phrase and status < 500 else None, headers=headers)
    if isinstance(problem, HttpProblem):
        problem.__dict__.update(code=f"http_{status}", title=phrase, status=status, retryable=status > 500)
    return problem


def named_errors(errors: Iterable[tuple[str, str, str]]) -> list[dict[str, str]]:
    """The member ``errors`` for these fields, codes and messages, cut to what a person reads."""
    return [
        {"field": field[:LONGEST_TEXT], "code": code, "message": message[:LONGEST_TEXT]}
        for field, code, message in islice(errors, MAX_ERRORS)
    ]


def problem_body(problem: Problem, instance: str) -> dict[str, Any]:
    """The members of the problem document; ``instance`` is the path that was asked for, without what gives access."""
    body: dict[str, Any] = {
        "type": f"{TYPE_PREFIX}{problem.code.replace('_', '-')}",
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
        "retryable": problem.retryable,
        "instance": redact(instance)[:LONGEST_TEXT],
    }
    if problem.detail is not None:
        body["detail"] = problem.detail[:LONGEST_TEXT]
    return body | problem.extra


def encode_problem(problem: Problem, instance: str) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(problem_body(problem, instance))
