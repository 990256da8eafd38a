"""The public application: routes, problems, limits and the frontend's origins."""

import sqlalchemy.exc
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from gateway.dependencies import Dependencies
from gateway.openapi import describe
from gateway.routes import account, events, generations, offers, payments, uploads
from messaging.database import is_unavailable
from messaging.errors import DatabaseUnavailableError
from service_runtime.fastapi_problems import install_fastapi, problem_response
from service_runtime.http_middleware import BodySizeLimit
from service_runtime.problems import Unavailable

MAX_BODY_BYTES = 64 * 1024
"""The largest request is a prompt with its parameters."""

_DESCRIPTION = """
Clips and pictures for credits. Sign in through Supabase and send its access token as `Authorization: Bearer <token>`.
Every failure is an RFC 9457 problem with a stable `code`. Requests that cost something need an `Idempotency-Key`.
"""


DATABASE_ERRORS = (DatabaseUnavailableError, sqlalchemy.exc.SQLAlchemyError, TimeoutError, ConnectionError)
"""The last two are the driver's own: the database answered before and does not any more."""
_STATEMENT_TIMEOUT = "57014"


class PublicApi(FastAPI):
    """FastAPI whose every answer may be read by the frontend's origins, the unexpected 500 included."""

    def build_middleware_stack(self) -> ASGIApp:
        """CORS goes around everything. Added as a middleware it would stand inside the handler of unexpected errors."""
        return CORSMiddleware(
            super().build_middleware_stack(),
            allow_origins=self.state.dependencies.settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "If-None-Match"],
            expose_headers=[
                "Content-Disposition",
                "ETag",
                "Idempotent-Replayed",
                "Location",
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


def build_app(dependencies: Dependencies) -> FastAPI:
    """The application."""
    app = PublicApi(
        title="Reelhouse",
        version="1",
        description=_DESCRIPTION,
        openapi_url="/openapi.json",
        # A redirect would be built from the Host that the caller sends.
        redirect_slashes=False,
        # Every service's HTTP is traced and counted the same way, by service_runtime.
        telemetry={"tracing": False, "metrics": False},
    )
    app.state.dependencies = dependencies
    for router in (generations, account, offers, payments, uploads, events):
        app.include_router(router.router)
    install_fastapi(app)
    for error in DATABASE_ERRORS:
        app.add_exception_handler(error, _database_unavailable)
    app.add_middleware(BodySizeLimit, max_bytes=MAX_BODY_BYTES)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app
