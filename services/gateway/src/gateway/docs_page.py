"""The page that lets a developer try the API, and the description behind it. Everything comes from this server."""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import fastapi_offline
import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles

from gateway.routes.request_context import LIMITED_BY_ADDRESS
from gateway.settings import Settings

ASSETS: Final = Path(fastapi_offline.__file__).parent / "static"
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Swagger UI sets styles by itself; scripts stand in files only."""
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Reelhouse</title>
<link rel="icon" href="docs/assets/favicon.png">
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START: Final = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, presets: [SwaggerUIBundle.presets.apis],
})
"""


def add_docs(app: FastAPI, settings: Settings) -> None:
    """Serve ``/openapi.json`` and, unless it is switched off, ``/docs``."""
    described: list[tuple[bytes, str]] = []

    async def description(request: Request) -> Response:
        if not described:
            body = msgspec.json.encode(app.openapi())
            described.append((body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'))
        body, tag = described[0]
        headers = {"ETag": tag, "Cache-Control": "public, max-age=60"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    async def page(_request: Request) -> Response:
        headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "public, max-age=60"}
        return Response(_PAGE, media_type="text/html", headers=headers)

    async def start(_request: Request) -> Response:
        return Response(_START, media_type="text/javascript", headers={"Cache-Control": "public, max-age=60"})

    served: dict[str, Callable[[Request], Awaitable[Response]]] = {"/openapi.json": description}
    if settings.docs:
        served |= {"/docs": page, "/docs/start.js": start}
    for path, endpoint in served.items():
        app.add_api_route(
            path, endpoint, methods=["GET", "HEAD"], include_in_schema=False, dependencies=[LIMITED_BY_ADDRESS]
        )
    if settings.docs:
        app.mount("/docs/assets", StaticFiles(directory=ASSETS))
