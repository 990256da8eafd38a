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

_JITTER: Final = 0.1
"""Replicas that started together drift apart by up to this share of the interval."""
_SHORTEST_BACKOFF: Final = timedelta(seconds=0.1)
_LONGEST_BACKOFF: Final = timedelta(seconds=60)

ROUND_SECONDS = Histogram("loop_round_seconds", "How long a round of a periodic loop took", ["loop"])
FAILURES = Counter("loop_failures_total", "Rounds of a periodic loop that failed", ["loop"])

log = structlog.get_logger(__name__)


class Every:
    """A component that calls ``function`` every ``seconds``, give or take a tenth, and at once when ``wake`` is set.

    It never calls it twice at a time.
    A round that fails or exceeds ``timeout_seconds`` is logged and counted, and tried again after growing pauses of up
    to a minute (or the interval, if that is longer): what a sweep could not do now, it does later. The first pause is
    ``retry_seconds``, or the interval.
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
        self._backoff = Backoff(first=max(first, _SHORTEST_BACKOFF), longest=max(interval, _LONGEST_BACKOFF))
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
            failures = 0 if await self._round() else failures + 1
            self._beat = time.monotonic()
            await self._pause(failures)

    async def _round(self) -> bool:
        try:
            with ROUND_SECONDS.labels(self.name).time():
                async with asyncio.timeout(self._timeout_seconds):
                    await self._function()
        except Exception:
            FAILURES.labels(self.name).inc()
            log.exception("loop_round_failed", loop=self.name)
            return False
        return True

    async def _pause(self, failures: int) -> None:
        seconds = self._seconds * (1 + random.uniform(-_JITTER, _JITTER))
        if failures:
            seconds = self._backoff.seconds(failures, self._replica)
        try:
            async with asyncio.timeout(seconds):
                # A failing round is not hurried: whatever wakes it may do so thousands of times a second.
                await (asyncio.Event() if failures else self._wake).wait()
        except TimeoutError:
            return
