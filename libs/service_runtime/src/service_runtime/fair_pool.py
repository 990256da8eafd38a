"""A pool of connections that serves those who wait in the order in which they came.

SQLAlchemy's own wakes the first that waits, and whoever asks before that one runs takes the connection from it. Under
load somebody always does, and the first goes to the end of the line. One order waited 10 s like that.
"""

import asyncio
from collections import deque
from typing import Any

from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.util import await_only
from sqlalchemy.util.queue import Empty, Full, QueueCommon


class FairQueue(QueueCommon[Any]):
    """What a pool keeps its idle connections in. A connection that comes back is handed to the first that waits."""

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self._idle: deque[Any] = deque()
        self._waiting: deque[asyncio.Future[Any]] = deque()

    def empty(self) -> bool:
        """See ``Queue``."""
        return not self._idle

    def full(self) -> bool:
        """See ``Queue``."""
        return 0 < self.maxsize <= len(self._idle)

    def qsize(self) -> int:
        """See ``Queue``."""
        return len(self._idle)

    def put_nowait(self, item: Any) -> None:
        """Hand ``item`` to the first that waits, or keep it. Raises ``Full``."""
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():
                first.set_result(item)
                return
        if self.full():
            raise Full
        self._idle.append(item)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """:meth:`put_nowait`: the pool never waits for room."""
        self.put_nowait(item)

    def next(self) -> Any:
        """The idle one that is given next; None if there is none."""
        if not self._idle:
            return None
        return self._idle[-1 if self.use_lifo else 0]

    def get_nowait(self) -> Any:
        """An idle one. Raises ``Empty``."""
        if not self._idle:
            raise Empty
        return self._idle.pop() if self.use_lifo else self._idle.popleft()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """An idle one, or the one whose turn it is when this has waited. Raises ``Empty`` after ``timeout`` seconds."""
        if self._idle or not block:
            return self.get_nowait()
        return await_only(self._turn(timeout))

    async def _turn(self, timeout: float | None) -> Any:
        turn: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(timeout):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                # It was handed over in the very moment in which the wait ended.
                self.put_nowait(turn.result())
            turn.cancel()
            if isinstance(error, TimeoutError):
                raise Empty from error
            raise


class FairPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool, in turn."""

    _queue_class = FairQueue

    def gives_at_once(self) -> bool:
        """Whether the next connection needs no wait: one is idle, and open."""
        assert isinstance(self._pool, FairQueue)
        record = self._pool.next()
        return (
            record is not None
            and not record._is_hard_or_soft_invalidated()
            and not record.driver_connection.is_closed()
        )
