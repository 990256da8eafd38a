"""RunPod's REST API: version 1 for what stands there, version 2 for its workers.

A creation is tried once, except after 429: names are not unique, so that a second try after a lost answer would
make a second thing. Everything else may be repeated, and is.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import httpx
import msgspec

from gpu_endpoint.deploy.errors import DeployError, InvalidDescription, MaybeCreated, Refused

Collection = Literal["templates", "networkvolumes", "endpoints"]

_TRIES: Final = 5
_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
_LISTING: Final[dict[Collection, dict[str, str]]] = {"templates": {"includeEndpointBoundTemplates": "true"}}
"""By default RunPod leaves out the templates of endpoints."""


class Worker(msgspec.Struct, frozen=True, rename="camel"):
    """One worker of an endpoint, as far as a roll-out is concerned."""

    status: str
    is_stale: bool = False
    id: str = ""
    gpu_type_id: str | None = None
    data_center_id: str | None = None


class _Workers(msgspec.Struct, frozen=True):
    workers: list[Worker]


@dataclass(frozen=True, kw_only=True)
class RestSettings:
    """Where the API is, and the key. The key is neither printed nor written anywhere."""

    api_key: str
    v1_url: str = "https://rest.runpod.io/v1"
    v2_url: str = "https://api.runpod.io/v2"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "RestSettings":
        """``RUNPOD_API_KEY``, and for an emulator ``RUNPOD_REST_V1_URL`` and ``RUNPOD_REST_V2_URL``."""
        key = environment.get("RUNPOD_API_KEY", "")
        if not key:
            raise InvalidDescription("RUNPOD_API_KEY is missing in the environment")
        return cls(
            api_key=key,
            v1_url=environment.get("RUNPOD_REST_V1_URL", cls.v1_url).rstrip("/"),
            v2_url=environment.get("RUNPOD_REST_V2_URL", cls.v2_url).rstrip("/"),
        )

    def __repr__(self) -> str:
        return f"RestSettings(v1_url={self.v1_url!r}, v2_url={self.v2_url!r})"


class RunPodRest:
    """A client. Its errors name the request and RunPod's words, without the key."""

    def __init__(self, http: httpx.AsyncClient, settings: RestSettings) -> None:
        self._http = http
        self._settings = settings

    async def list(self, collection: Collection) -> list[dict[str, Any]]:
        """All of them."""
        answer = await self._repeatable("GET", f"{self._settings.v1_url}/{collection}", params=_LISTING.get(collection))
        return msgspec.json.decode(answer.content, type=list[dict[str, Any]])

    async def find(self, collection: Collection, identifier: str) -> dict[str, Any] | None:
        """One of them, or None if there is none of this id."""
        answer = await self._repeatable("GET", f"{self._settings.v1_url}/{collection}/{identifier}", absent=True)
        return None if answer.status_code == 404 else msgspec.json.decode(answer.content, type=dict[str, Any])

    async def create(self, collection: Collection, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Make one. Raises MaybeCreated if the answer was lost."""
        url = f"{self._settings.v1_url}/{collection}"
        for attempt in range(1, _TRIES + 1):
            try:
                answer = await self._http.post(url, json=fields)
            except httpx.ConnectError as error:
                raise DeployError(f"POST {url}: {type(error).__name__}") from error
            except httpx.TransportError as error:
                raise MaybeCreated(_lost_answer(url, type(error).__name__)) from error
            if answer.status_code == 429 and attempt < _TRIES:
                await asyncio.sleep(_pause(attempt, answer))
                continue
            if answer.status_code >= 500:
                raise MaybeCreated(_lost_answer(url, str(answer.status_code)))
            return msgspec.json.decode(self._accepted(answer).content, type=dict[str, Any])
        raise AssertionError("unreachable")

    async def change(self, collection: Collection, identifier: str, fields: Mapping[str, Any]) -> None:
        """Send only what differs."""
        await self._repeatable("PATCH", f"{self._settings.v1_url}/{collection}/{identifier}", json=fields)

    async def workers(self, endpoint_id: str) -> tuple[Worker, ...]:
        """The workers of an endpoint."""
        answer = await self._repeatable("GET", f"{self._settings.v2_url}/serverless/{endpoint_id}/workers")
        try:
            return tuple(msgspec.json.decode(answer.content, type=_Workers).workers)
        except msgspec.DecodeError as error:
            raise DeployError(f"GET {answer.url}: an answer of another shape: {error}") from error

    async def _repeatable(self, method: str, url: str, *, absent: bool = False, **request: Any) -> httpx.Response:
        for attempt in range(1, _TRIES + 1):
            last = attempt == _TRIES
            try:
                answer = await self._http.request(method, url, **request)
            except httpx.TransportError as error:
                if last:
                    raise DeployError(f"{method} {url}: {type(error).__name__}, {_TRIES} times") from error
                await asyncio.sleep(_pause(attempt, None))
                continue
            if (answer.status_code == 429 or answer.status_code >= 500) and not last:
                await asyncio.sleep(_pause(attempt, answer))
                continue
            return answer if absent and answer.status_code == 404 else self._accepted(answer)
        raise AssertionError("unreachable")

    def _accepted(self, answer: httpx.Response) -> httpx.Response:
        if answer.is_success:
            return answer
        words = answer.text[:500].replace(self._settings.api_key, "[key]")
        raise Refused(f"{answer.request.method} {answer.request.url}: {answer.status_code} {words}")


@contextlib.asynccontextmanager
async def runpod_rest(settings: RestSettings) -> AsyncIterator[RunPodRest]:
    """A client with its connections."""
    headers = {"authorization": f"Bearer {settings.api_key}"}
    async with httpx.AsyncClient(headers=headers, timeout=30) as http:
        yield RunPodRest(http, settings)


def _pause(attempt: int, answer: httpx.Response | None) -> float:
    """As RunPod asks, but never longer than a minute; without a word of it a second, doubled each time."""
    asked = answer.headers.get("retry-after", "") if answer is not None else ""
    seconds = float(asked) if asked.isdigit() else _PAUSE_SECONDS * 2 ** (attempt - 1)
    return min(seconds, _LONGEST_PAUSE_SECONDS)


def _lost_answer(url: str, why: str) -> str:
    return f"POST {url}: {why}. It may have been created: run the same command again, which looks it up by name"
