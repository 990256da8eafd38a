"""What one replica does when more orders come than can be answered soon: it refuses, or answers without the verdict.

Both bounds follow from what the gateway sees itself: how long the last orders took, and how many wait. Neither needs a
setting. Decision 0054 says why.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final

from gateway.errors import RateLimited
from gateway.metrics import REFUSED, VERDICTS_CUT_SHORT

LONGEST_WAIT_SECONDS: Final = 0.4
"""How long an order may be expected to wait until it is written. Beyond that it is refused."""
WRITES_PER_CONNECTION: Final = 5
"""Orders that may wait for each database connection, however fast they were. It bounds them while none ends."""
SHARE_OF_WRITES: Final = 0.6
"""The share of the connections that orders may use at a time."""
VERDICTS_AWAITED: Final = 20
"""Requests that wait for billing's verdict at a time. Without an overload hardly one does: it comes in milliseconds."""
BUSY: Final = "busy"
"""The name of the overload among the limits, for the metric."""
_WEIGHT: Final = 0.1
"""How much the newest order counts in the mean: at 30 orders a second it knows the last third of a second."""


class WriteQueue:
    """The orders that are being written. It refuses one that would wait too long, before it costs anything.

    An order that took ``t`` seconds with ``n`` others before it says that each takes ``t / (n + 1)``: so many seconds
    does each place in the queue cost, whatever is slow (the database, its pool, or the processor of this process).
    As many as there are connections are always taken: one that waits for a lock of its user must not keep out others.
    Inside a place, take one of the ``turns`` before the database is used.
    """

    def __init__(self, connections: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.turns: Final = asyncio.Semaphore(max(1, int(connections * SHARE_OF_WRITES)))
        """First come, first served. What must not wait behind orders (answers, projections) finds a connection."""
        self._connections = connections
        self._clock = clock
        self._writing = 0
        self._seconds_each = 0.0

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """A place until the block ends. Raises ``RateLimited`` where it would be too far behind."""
        before = self._writing
        if not self._is_soon(before):
            REFUSED.labels(BUSY).inc()
            raise RateLimited("the service is busy", headers={"Retry-After": "1"})
        began = self._clock()
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1
        self._learn((self._clock() - began) / (before + 1))

    def _is_soon(self, before: int) -> bool:
        if before < self._connections:
            return True
        if before >= self._connections * WRITES_PER_CONNECTION:
            return False
        return (before + 1) * self._seconds_each <= LONGEST_WAIT_SECONDS

    def _learn(self, seconds_each: float) -> None:
        self._seconds_each += (seconds_each - self._seconds_each) * _WEIGHT


class VerdictWaits:
    """The requests whose order is written and whose verdict is awaited.

    When more than ``VERDICTS_AWAITED`` wait, the one that has waited longest is answered without it: its order stands,
    and its events say the rest.
    """

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], None] = {}

    @contextlib.contextmanager
    def waiting(self) -> Iterator[asyncio.Future[None]]:
        """Wait inside the block until the verdict comes, or until this future is done."""
        cut_short: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[cut_short] = None
        if len(self._waiting) > VERDICTS_AWAITED:
            longest = next(iter(self._waiting))
            del self._waiting[longest]
            longest.set_result(None)
            VERDICTS_CUT_SHORT.inc()
        try:
            yield cut_short
        finally:
            self._waiting.pop(cut_short, None)
