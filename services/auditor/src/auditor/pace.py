"""The pace at which the library is read: so many objects and bytes a second, on average, and no more."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any


class Pace:
    """``spend`` returns when what was spent so far is paid for. All readers of one process share one pace."""

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
        self._paid_at = 0.0

    async def spend(self, *, objects: int = 0, size_bytes: int = 0) -> None:
        """Account for this much, and wait until it is paid for."""
        now = self._clock()
        price = max(objects / self._objects_per_second, size_bytes / self._bytes_per_second)
        self._paid_at = max(self._paid_at, now) + price
        await self._sleep(self._paid_at - now)
