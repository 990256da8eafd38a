"""One signed-in user of the public API, as the frontend would be."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

import httpx

from local_platform.description import PlatformDescription
from local_platform.identity import sign_token

_TIMEOUT_SECONDS = 15.0


class UnexpectedAnswerError(RuntimeError):
    """The API answered with another status than was expected."""


@dataclass(frozen=True, kw_only=True)
class ServerSentEvent:
    """One event of ``GET /v1/events``."""

    type: str
    data: dict[str, Any]


class ApiClient:
    """Calls of one user. Every method raises UnexpectedAnswerError when the status is not the one it expects."""

    def __init__(self, platform: PlatformDescription, user_id: UUID, plan: str = "free") -> None:
        self.user_id = user_id
        self._last_event_id = "0"
        self._http = httpx.AsyncClient(
            base_url=platform.urls["gateway"],
            headers={"Authorization": f"Bearer {sign_token(platform, user_id, plan)}"},
            timeout=_TIMEOUT_SECONDS,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, path: str, expect: int = 200, **parameters: str) -> Any:
        """GET ``path`` and decode the answer."""
        return _checked(await self._http.get(path, params=parameters), expect)

    async def post(self, path: str, body: dict[str, Any], key: str | None = None, expect: int = 201) -> Any:
        """POST ``body`` with the idempotency key ``key`` and decode the answer."""
        headers = {"Idempotency-Key": key} if key else {}
        return _checked(await self._http.post(path, json=body, headers=headers), expect)

    async def events(self) -> AsyncGenerator[ServerSentEvent, None]:
        """The user's events, from where the last call of this method left off; ends when the server ends the stream."""
        headers = {"Last-Event-ID": self._last_event_id}
        timeout = httpx.Timeout(_TIMEOUT_SECONDS, read=60.0)
        async with self._http.stream("GET", "/v1/events", headers=headers, timeout=timeout) as response:
            if response.status_code != httpx.codes.OK:
                raise UnexpectedAnswerError(f"GET /v1/events: {response.status_code}")
            fields: dict[str, str] = {}
            async for line in response.aiter_lines():
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.strip()
                    continue
                if "data" in fields:
                    self._last_event_id = fields.get("id", self._last_event_id)
                    yield ServerSentEvent(type=fields.get("event", "message"), data=json.loads(fields["data"]))
                fields = {}


def _checked(response: httpx.Response, expect: int) -> Any:
    if response.status_code != expect:
        request = response.request
        raise UnexpectedAnswerError(
            f"{request.method} {request.url.path}: expected {expect}, got {response.status_code}: {response.text[:500]}"
        )
    return response.json()
