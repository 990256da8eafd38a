"""The public application: routes, problems, limits and the frontend's origins."""

from http import HTTPStatus
from typing import Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from gateway.dependencies import Dependencies
from gateway.docs_page import add_docs
from gateway.domain import LOCALHOST
from gateway.openapi import describe
from gateway.playground import add_playground
from gateway.rate_limit_headers import RateLimitHeaders
from gateway.routes import account, events, generations, offers, payments, uploads, verification
from messaging.database import DATABASE_ERRORS, is_unavailable
from service_runtime.fastapi_problems import install_fastapi, problem_response
from service_runtime.http_middleware import BodySizeLimit
from service_runtime.problems import MethodNotAllowed, Unavailable

MAX_BODY_BYTES: Final = 64 * 1024
"""The largest request is a prompt with its parameters."""

_DESCRIPTION: Final = """
Clips and pictures for credits. Sign in through Supabase and send its access token as `Authorization: Bearer <token>`.
Every failure is an RFC 9457 problem with a stable `code`. Requests that cost something need an `Idempotency-Key`.
"""

_STATEMENT_TIMEOUT: Final = "57014"
ROUTERS: Final = (
    generations.router,
    account.router,
    offers.router,
    payments.router,
    uploads.router,
    verification.router,
    events.router,
)


class PublicApi(FastAPI):
    """FastAPI whose every answer may be read by the frontend's origins, the unexpected 500 included."""

    def build_middleware_stack(self) -> ASGIApp:
        """CORS goes around everything. Added as a middleware it would stand inside the handler of unexpected errors."""
        settings = self.state.dependencies.settings
        return CORSMiddleware(
            super().build_middleware_stack(),
            allow_origins=settings.cors_origins,
            allow_origin_regex=LOCALHOST if settings.cors_localhost else None,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "If-None-Match"],
            expose_headers=[
                "Content-Disposition",
                "ETag",
                "Idempotent-Replayed",
                "Location",
                "RateLimit",
                "RateLimit-Policy",
                "Retry-After",
                "Trace-Id",
            ],
            max_age=600,
        )


async def _database_unavailable(request: Request, error: Exception) -> Response:
    """Nothing was done, or nobody knows whether it was: the same request with the same key finds out."""
    overdue = getattr(getattr(error, "orig", None), "sqlstate", None) == _STATEMENT_TIMEOUT
    if not (overdue or is_unavailable(error)):
        raise error
    return problem_response(request, Unavailable("try again with the same key", headers={"Retry-After": "2"}))


def _head_of(router: APIRouter) -> APIRouter:
    """HEAD for every GET: the same answer, whose body the server leaves out."""
    heads = APIRouter()
    for route in _api_routes(router):
        if "GET" in (route.methods or ()):
            heads.add_api_route(
                route.path,
                route.endpoint,
                methods=["HEAD"],
                response_model=route.response_model,
                dependencies=route.dependencies,
            )
    return heads


def _api_routes(router: APIRouter) -> list[APIRoute]:
    return [route for route in router.routes if isinstance(route, APIRoute)]


async def _method_not_allowed(request: Request, _error: Exception) -> Response:
    """The framework names the methods of the first route of a path; this names those of all."""
    routes = [route for router in ROUTERS for route in _api_routes(router) if route.path_regex.match(request.url.path)]
    methods = {method for route in routes for method in route.methods or ()} or {"GET"}
    if "GET" in methods:
        methods.add("HEAD")
    return problem_response(request, MethodNotAllowed(headers={"Allow": ", ".join(sorted(methods))}))


def build_app(dependencies: Dependencies) -> FastAPI:
    """The application."""
    app = PublicApi(
        title="Reelhouse",
        version="1",
        description=_DESCRIPTION,
        # gateway.docs_page serves both.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A redirect would be built from the Host that the caller sends.
        redirect_slashes=False,
        # Every service's HTTP is traced and counted the same way, by service_runtime.
        telemetry={"tracing": False, "metrics": False},
    )
    app.state.dependencies = dependencies
    for router in ROUTERS:
        app.include_router(router)
        app.include_router(_head_of(router), include_in_schema=False)
    add_playground(app, dependencies.settings)
    add_docs(app, dependencies.settings)
    install_fastapi(app)
    app.add_exception_handler(HTTPStatus.METHOD_NOT_ALLOWED, _method_not_allowed)
    for error in DATABASE_ERRORS:
        app.add_exception_handler(error, _database_unavailable)
    larger = {verification.PATH: dependencies.settings.verified_file_max_bytes}
    app.add_middleware(BodySizeLimit, max_bytes=MAX_BODY_BYTES, larger=larger)
    app.add_middleware(RateLimitHeaders)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app
