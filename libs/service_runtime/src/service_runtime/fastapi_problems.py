"""Problem details for FastAPI and Starlette applications. Needs fastapi, a dependency of the service that uses this."""

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service_runtime.problems import (
    CONTENT_TYPE,
    InternalError,
    InvalidRequest,
    MalformedRequest,
    Problem,
    encode_problem,
    named_errors,
    problem_of_status,
)
from service_runtime.tracing import current_trace_id


def install_fastapi(app: FastAPI) -> None:
    """Answer every failure of ``app`` with a problem document: ours, the framework's own, and the unexpected."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def problem_response(request: Request, problem: Problem) -> Response:
    """The response that tells ``problem``."""
    return Response(
        encode_problem(problem, request.url.path),
        status_code=problem.status,
        headers=problem.headers,
        media_type=CONTENT_TYPE,
    )


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(request, error)


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details = error.errors()
    if any(detail["type"] == "json_invalid" for detail in details):
        return problem_response(request, MalformedRequest("the body is not JSON"))
    errors = (
        # The first part says where it was looked for: body, query, path or header.
        (".".join(str(part) for part in detail["loc"][1:]) or str(detail["loc"][0]), detail["type"], detail["msg"])
        for detail in details
    )
    return problem_response(request, InvalidRequest(errors=named_errors(errors)))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem_response(request, problem_of_status(error.status_code, error.detail, error.headers))


async def _unexpected(request: Request, _error: Exception) -> Response:
    # The framework raises it again after this answer, and RequestObservation logs it with its traceback.
    return problem_response(request, InternalError(trace_id=current_trace_id()))
