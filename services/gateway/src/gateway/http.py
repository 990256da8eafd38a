"""The public application: routes, problems, limits and the frontend's origins."""

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi

from gateway.dependencies import Parts
from gateway.routes import account, buying, events, generations, offers, uploads
from service_runtime.fastapi_problems import install_fastapi
from service_runtime.http_middleware import BodySizeLimit

MAX_BODY_BYTES = 64 * 1024
"""The largest request is a prompt with its parameters."""

_PUBLIC = ("listModels", "listCreditPacks")

_DESCRIPTION = """
Clips and pictures for credits. Sign in through Supabase and send its access token as `Authorization: Bearer <token>`.
Every failure is an RFC 9457 problem with a stable `code`. Requests that cost something need an `Idempotency-Key`.
"""


def build_app(parts: Parts) -> FastAPI:
    """The application over its parts."""
    app = FastAPI(title="Reelhouse", version="1", description=_DESCRIPTION, openapi_url="/openapi.json")
    app.state.parts = parts
    for router in (generations, account, offers, buying, uploads, events):
        app.include_router(router.router)
    install_fastapi(app)
    app.add_middleware(BodySizeLimit, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=parts.settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "If-None-Match"],
        expose_headers=["ETag", "Idempotent-Replayed", "Location", "Retry-After"],
        max_age=600,
    )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, object]:
    """The generated document, with the bearer token and the shape of a problem."""
    if app.openapi_schema:
        return app.openapi_schema
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = schema.setdefault("components", {})
    components["securitySchemes"] = {"supabase": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    components.setdefault("schemas", {})["Problem"] = {
        "type": "object",
        "required": ["type", "title", "status", "code", "retryable", "instance"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"type": "string", "description": "Stable; see docs/api.md."},
            "retryable": {"type": "boolean"},
            "instance": {"type": "string"},
            "detail": {"type": "string"},
            "errors": {"type": "array", "items": {"type": "object"}},
        },
    }
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for methods in schema["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"description": "A problem.", "content": problem}
            if operation["operationId"] not in _PUBLIC:
                operation["security"] = [{"supabase": []}]
    app.openapi_schema = schema
    return schema
