"""A client of the public API for one user, like the frontend: it repeats unanswered requests and resumes streams."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

import httpx

from local_platform.description import PlatformDescription
from local_platform.identity import sign_token
from service_runtime.authorities import trusted_authorities

_TIMEOUT_SECONDS = 15.0
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.3
_TEMPORARY = (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT)


class UnexpectedAnswerError(RuntimeError):
    """The API answered with an unexpected status, or did not answer for too long."""


@dataclass(frozen=True, kw_only=True)
class ServerSentEvent:
    """One event of ``GET /v1/events``."""

    type: str
    data: dict[str, Any]


class ApiClient:
    """The calls of one user. Every method raises UnexpectedAnswerError for an unexpected status.

    ``patience_seconds`` is how long services may be unavailable, for example killed and restarting, before that is a
    failure, too.
    """

    def __init__(
        self,
        platform: PlatformDescription,
        user_id: UUID,
        plan: str = "free",
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self.user_id = user_id
        self._patience_seconds = patience_seconds
        self._last_event_id = "0"
        self._http = httpx.AsyncClient(
            base_url=platform.urls["gateway"],
            headers={"Authorization": f"Bearer {sign_token(platform.identity, user_id, plan)}"},
            timeout=_TIMEOUT_SECONDS,
            trust_env=False,
            verify=trusted_authorities(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, path: str, **parameters: str) -> Any:
        """GET ``path`` and decode the answer."""
        response, _ = await self._answer(self._http.build_request("GET", path, params=parameters))
        return _decoded(response, {httpx.codes.OK})

    async def post(
        self, path: str, body: Mapping[str, object], key: str, expect: int = 201, *, repeated: bool = False
    ) -> Any:
        """POST ``body`` under the idempotency key ``key`` until there is a decision, and decode it.

        A request that was ``repeated``, by the caller or here, may be answered with 200: the first result again.
        """
        request = self._http.build_request("POST", path, json=body, headers={"Idempotency-Key": key})
        response, repeated_here = await self._answer(request)
        return _decoded(response, {expect, httpx.codes.OK} if repeated or repeated_here else {expect})

    async def delete(self, path: str) -> None:
        """DELETE ``path`` until there is a decision."""
        response, _ = await self._answer(self._http.build_request("DELETE", path))
        _check(response, {httpx.codes.NO_CONTENT})

    async def events(self) -> AsyncGenerator[ServerSentEvent, None]:
        """The user's events, from where the last call of this method ended. Reconnects when the stream breaks."""
        lost_at: float | None = None
        while lost_at is None or time.monotonic() < lost_at + self._patience_seconds:
            try:
                async with contextlib.aclosing(self._connected_events()) as events:
                    async for event in events:
                        lost_at = None
                        yield event
            except httpx.TransportError:
                pass
            lost_at = lost_at or time.monotonic()
            await asyncio.sleep(_PAUSE_SECONDS)
        raise UnexpectedAnswerError(f"GET /v1/events: no stream for {self._patience_seconds:.0f} s")

    async def _connected_events(self) -> AsyncGenerator[ServerSentEvent, None]:
        headers = {"Last-Event-ID": self._last_event_id}
        timeout = httpx.Timeout(_TIMEOUT_SECONDS, read=60.0)
        async with self._http.stream("GET", "/v1/events", headers=headers, timeout=timeout) as response:
            if response.status_code in _TEMPORARY:
                return
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

    async def _answer(self, request: httpx.Request) -> tuple[httpx.Response, bool]:
        """The decision on ``request``, and whether it had to be sent more than once."""
        deadline = time.monotonic() + self._patience_seconds
        for tries in range(1, 1000):
            try:
                response = await self._http.send(request)
            except httpx.TransportError as error:
                answer = type(error).__name__
            else:
                if response.status_code not in (*_TEMPORARY, httpx.codes.ACCEPTED):
                    return response, tries > 1
                answer = f"{response.status_code} {response.text[:200]}"
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        raise UnexpectedAnswerError(
            f"{request.method} {request.url.path}: no decision within {self._patience_seconds:.0f} s, last {answer}"
        )


def _decoded(response: httpx.Response, expected: set[int]) -> Any:
    _check(response, expected)
    return response.json()


def _check(response: httpx.Response, expected: set[int]) -> None:
    if response.status_code not in expected:
        request = response.request
        wanted = " or ".join(str(int(status)) for status in sorted(expected))
        raise UnexpectedAnswerError(
            f"{request.method} {request.url.path}: expected {wanted}, got {response.status_code}: {response.text[:500]}"
        )
