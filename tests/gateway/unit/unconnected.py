"""A gateway that connects to nothing: it answers what needs no database."""

import time
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt

from gateway.main import build
from gateway.settings import Settings
from local_platform.openapi import UNCONNECTED

SECRET = "a-secret-of-this-test-and-of-nothing-else"


def settings(**changed: Any) -> Settings:
    """Its settings."""
    return Settings.model_validate(UNCONNECTED | changed)


class UnconnectedHarness:
    """The application, called from any address."""

    def __init__(self, **changed: Any) -> None:
        self._settings = settings(jwt_secret=SECRET, jwks_url=None, **changed)
        self._app = build(self._settings).app

    def token(self, user_id: UUID | None = None, secret: str = SECRET) -> str:
        claims = {
            "iss": self._settings.jwt_issuer,
            "aud": "authenticated",
            "sub": str(user_id or uuid4()),
            "role": "authenticated",
            "exp": int(time.time()) + 600,
        }
        return jwt.encode(claims, secret, "HS256")

    async def send(
        self, method: str, path: str, token: str | None = None, address: str = "198.51.100.1", **options: Any
    ) -> httpx.Response:
        """The answer to one request. ``options`` are httpx's."""
        transport = httpx.ASGITransport(self._app, client=(address, 4000))
        own = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=own) as http:
            return await http.request(method, path, **options)
