"""The public application: routes, problems, limits and the frontend's origins."""

import sqlalchemy.exc
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from gateway.dependencies import Parts
from gateway.openapi import describe
from gateway.routes import account, buying, events, generations, offers, uploads
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
"""Of the last two, a database that was there and does not answer any more: the driver's own, untranslated."""
_STATEMENT_TIMEOUT = "57014"


class PublicApi(FastAPI):
    """FastAPI whose every answer may be read by the frontend's origins: the unexpected 500, too."""

    def build_middleware_stack(self) -> ASGIApp:
        """CORS goes around everything; as a mere middleware it would stand inside of the handler of the last resort."""
        return CORSMiddleware(
            super().build_middleware_stack(),
            allow_origins=self.state.parts.settings.cors_origins,
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


async def _database_away(request: Request, error: Exception) -> Response:
    """Nothing was done, or it is unknown whether it was: the same request with the same key is the way to find out."""
    overdue = getattr(getattr(error, "orig", None), "sqlstate", None) == _STATEMENT_TIMEOUT
    if not (overdue or is_unavailable(error)):
        raise error
    return problem_response(request, Unavailable("try again with the same key", headers={"Retry-After": "2"}))


def build_app(parts: Parts) -> FastAPI:
    """The application over its parts."""
    app = PublicApi(
        title="Reelhouse",
        version="1",
        description=_DESCRIPTION,
        openapi_url="/openapi.json",
        # A redirect would be built from whatever Host the caller says.
        redirect_slashes=False,
        # Every service's HTTP is traced and counted the same way, by service_runtime.
        telemetry={"tracing": False, "metrics": False},
    )
    app.state.parts = parts
    for router in (generations, account, offers, buying, uploads, events):
        app.include_router(router.router)
    install_fastapi(app)
    for error in DATABASE_ERRORS:
        app.add_exception_handler(error, _database_away)
    app.add_middleware(BodySizeLimit, max_bytes=MAX_BODY_BYTES)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app
