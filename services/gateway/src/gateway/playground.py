"""The playground: pages that show what the API can do, for developers. Served only where their folder is configured."""

from typing import Final
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from gateway.settings import Settings

PREFIX: Final = "/playground"


class _Pages(StaticFiles):
    """The files, with a policy that lets them run only what they brought, and reach only what they need."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(directory=settings.playground_directory, html=True)
        objects = settings.s3_public_endpoint_url or settings.s3_endpoint_url
        policy = {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": f"'self' data: blob: {objects}",
            "media-src": f"blob: {objects}",
            "connect-src": f"'self' {objects} {_origin(settings.jwt_issuer)}",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        self._headers = {
            "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in policy.items()),
            "Cache-Control": "no-cache",
        }

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(self._headers)
        return response


def add_playground(app: FastAPI, settings: Settings) -> None:
    """Serve the pages under ``/playground/``, if their folder is configured."""
    if settings.playground_directory is None:
        return

    async def to_folder(_: Request) -> Response:
        return RedirectResponse(f"{PREFIX}/")

    async def config(_: Request) -> Response:
        """Where the API is, seen from the page, and who signs users in."""
        return JSONResponse({"api_url": "/", "auth_url": settings.jwt_issuer}, headers={"Cache-Control": "no-cache"})

    app.router.routes.append(Route(PREFIX, to_folder))
    app.router.routes.append(Route(f"{PREFIX}/config.json", config))
    app.mount(PREFIX, _Pages(settings), name="playground")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
