"""Problem details for Litestar applications. Needs litestar, a dependency of the service that uses this."""

from typing import Any

import structlog
from litestar import Request
from litestar.exceptions import HTTPException, ValidationException
from litestar.response import Response
from litestar.types import ExceptionHandlersMap

from service_runtime.problems import (
    CONTENT_TYPE,
    InternalError,
    InvalidRequest,
    Problem,
    encode_problem,
    named_errors,
    problem_of_status,
)
from service_runtime.tracing import current_trace_id

log = structlog.get_logger(__name__)


def install_litestar_handlers() -> ExceptionHandlersMap:
    """For ``Litestar(exception_handlers=...)``: ours, the framework's own, and the unexpected become problems."""
    return {Problem: _problem, ValidationException: _validation, HTTPException: _http, Exception: _unexpected}


def problem_response(request: Request[Any, Any, Any], problem: Problem) -> Response[bytes]:
    """The response that tells ``problem``."""
    return Response(
        encode_problem(problem, request.url.path),
        status_code=problem.status,
        headers=problem.headers,
        media_type=CONTENT_TYPE,
    )


def _problem(request: Request[Any, Any, Any], error: Problem) -> Response[bytes]:
    return problem_response(request, error)


def _validation(request: Request[Any, Any, Any], error: ValidationException) -> Response[bytes]:
    found = error.extra if isinstance(error.extra, list) else []
    errors = ((str(one.get("key", "")), "invalid", str(one.get("message", ""))) for one in found)
    return problem_response(request, InvalidRequest(errors=named_errors(errors)))


def _http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    return problem_response(request, problem_of_status(error.status_code, error.detail, error.headers))


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.error("request_failed", path=request.url.path, exc_info=error)
    return problem_response(request, InternalError(trace_id=current_trace_id()))
