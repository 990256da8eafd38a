"""The headers ``RateLimit-Policy`` and ``RateLimit``: which limits a request fell under, and how much of each remains.

Their form is that of draft-ietf-httpapi-ratelimit-headers-11. A limit is reported from wherever it is counted; the
middleware writes what was reported into the answer, whatever the answer is.
"""

import math
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Limit:
    """So many units in a window. ``name`` is stable: clients read it."""

    name: str
    quota: int
    window_seconds: int
    unit: Literal["requests", "content-bytes"] = "requests"

    @property
    def refill_seconds(self) -> int:
        """How long one more unit takes, where the quota comes back evenly."""
        return math.ceil(self.window_seconds / self.quota)

    def __str__(self) -> str:
        unit = "" if self.unit == "requests" else f';qu="{self.unit}"'
        return f'"{self.name}";q={self.quota}{unit};w={self.window_seconds}'


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much of a limit a caller has at the moment. No more than that can be used within ``seconds``."""

    limit: Limit
    available: int
    seconds: int

    def __str__(self) -> str:
        return f'"{self.limit.name}";r={max(0, self.available)};t={self.seconds}'


_REPORTED: ContextVar[list[Allowance] | None] = ContextVar("reported", default=None)


def report(allowance: Allowance) -> None:
    """Have the answer of the current request say it."""
    reported = _REPORTED.get()
    if reported is not None:
        reported.append(allowance)


class RateLimitHeaders:
    """Writes what the request reported."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reported: list[Allowance] = []
        token = _REPORTED.set(reported)

        async def said(message: Message) -> None:
            if message["type"] == "http.response.start" and reported:
                message["headers"] = [*message.get("headers", ()), *_headers(reported)]
            await send(message)

        try:
            await self._app(scope, receive, said)
        finally:
            _REPORTED.reset(token)


def _headers(reported: list[Allowance]) -> list[tuple[bytes, bytes]]:
    newest = {allowance.limit.name: allowance for allowance in reported}.values()
    policies = ", ".join(str(allowance.limit) for allowance in newest)
    return [
        (b"ratelimit-policy", policies.encode()),
        (b"ratelimit", ", ".join(map(str, newest)).encode()),
    ]
