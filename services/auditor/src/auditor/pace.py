"""The pace at which the library is read: so many objects and bytes a second, on average, and no more."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

AT_ONCE_SECONDS: Final = 1.0
"""What may be spent at once. Without it, each sleep that ends late would slow the reading down for good."""
SHORTEST_SLEEP_SECONDS: Final = 0.1
"""A file comes in hundreds of pieces: a sleep after each would cost more than the reading."""


class Pace:
    """``spend`` returns when what was spent so far is paid for. All readers of one process share one pace.

    In any time no more is spent than it pays for and one second besides.
    """

    def __init__(
        self,
        objects_per_second: float,
        bytes_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._objects_per_second = objects_per_second
        self._bytes_per_second = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._objects_paid_at = 0.0
        self._bytes_paid_at = 0.0

    async def spend(self, *, objects: int = 0, size_bytes: int = 0) -> None:
        """Account for this much, and wait until it is paid for."""
        now = self._clock()
        earliest = now - AT_ONCE_SECONDS
        self._objects_paid_at = max(self._objects_paid_at, earliest) + objects / self._objects_per_second
        self._bytes_paid_at = max(self._bytes_paid_at, earliest) + size_bytes / self._bytes_per_second
        ahead = max(self._objects_paid_at, self._bytes_paid_at) - now
        if ahead >= SHORTEST_SLEEP_SECONDS:
            await self._sleep(ahead)
