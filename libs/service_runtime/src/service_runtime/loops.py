"""Work that is done again and again: sweeps, gauges, retries."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import structlog
from prometheus_client import Counter, Histogram

from service_runtime.backoff import Backoff
from service_runtime.database import says_away

_JITTER: Final = 0.1
"""Replicas that started together drift apart by up to this share of the interval."""
_SHORTEST_BACKOFF: Final = timedelta(seconds=0.1)
_LONGEST_BACKOFF: Final = timedelta(seconds=60)
_LONGEST_OUTAGE_BACKOFF: Final = timedelta(seconds=5)
"""As consumers and relays: so soon after the return of what was away the work goes on."""

ROUND_SECONDS = Histogram("loop_round_seconds", "How long a round of a periodic loop took", ["loop"])
FAILURES = Counter("loop_failures_total", "Rounds of a periodic loop that failed", ["loop"])

log = structlog.get_logger(__name__)


class ServerAwayError(Exception):
    """A server that the work needs is away. The work itself did not fail."""


class Every:
    """A component that calls ``function`` every ``seconds``, give or take a tenth, and at once when ``wake`` is set.

    It never calls it twice at a time.
    A round that fails or exceeds ``timeout_seconds`` is logged and counted, and tried again after growing pauses of up
    to a minute (or the interval, if that is longer): what a sweep could not do now, it does later. The first pause is
    ``retry_seconds``, or the interval. After a ServerAwayError, or where the database says that it takes no work or no
    writes, no pause is longer than five seconds.
    """

    def __init__(
        self,
        name: str,
        seconds: float,
        function: Callable[[], Awaitable[Any]],
        *,
        wake: asyncio.Event | None = None,
        timeout_seconds: float = 60.0,
        retry_seconds: float | None = None,
    ) -> None:
        self.name = name
        interval = timedelta(seconds=seconds)
        first = interval if retry_seconds is None else timedelta(seconds=retry_seconds)
        first = max(first, _SHORTEST_BACKOFF)
        self._backoff = Backoff(first=first, longest=max(interval, _LONGEST_BACKOFF))
        self._outage_backoff = Backoff(first=min(first, _LONGEST_OUTAGE_BACKOFF), longest=_LONGEST_OUTAGE_BACKOFF)
        self._replica = uuid4()
        self.heartbeat_limit_seconds = timeout_seconds + 2 * self._backoff.longest.total_seconds()
        self._seconds = seconds
        self._function = function
        self._wake = wake or asyncio.Event()
        self._timeout_seconds = timeout_seconds
        self._beat = time.monotonic()

    def heartbeat_age_seconds(self) -> float:
        """Seconds since a round last began or ended."""
        return time.monotonic() - self._beat

    async def run(self) -> None:
        """Until cancelled."""
        FAILURES.labels(self.name)
        failures = 0
        while True:
            self._wake.clear()
            self._beat = time.monotonic()
            error = await self._round()
            self._beat = time.monotonic()
            failures = 0 if error is None else failures + 1
            is_outage = error is not None and _is_outage(error)
            await self._pause(self._outage_backoff if is_outage else self._backoff, failures)

    async def _round(self) -> Exception | None:
        """The error with which it failed."""
        try:
            with ROUND_SECONDS.labels(self.name).time():
                async with asyncio.timeout(self._timeout_seconds):
                    await self._function()
        except Exception as error:
            FAILURES.labels(self.name).inc()
            reason = f"{type(error).__name__}: {error}"
            log.error("loop_round_failed", loop=self.name, reason=reason, exc_info=None if _is_outage(error) else error)
            return error
        return None

    async def _pause(self, backoff: Backoff, failures: int) -> None:
        seconds = self._seconds * (1 + random.uniform(-_JITTER, _JITTER))
        if failures:
            seconds = backoff.seconds(failures, self._replica)
        try:
            async with asyncio.timeout(seconds):
                # A failing round is not hurried: whatever wakes it may do so thousands of times a second.
                await (asyncio.Event() if failures else self._wake).wait()
        except TimeoutError:
            return


def _is_outage(error: Exception) -> bool:
    return isinstance(error, ServerAwayError) or says_away(error)
