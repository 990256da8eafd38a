"""Rate limits per endpoint and operation, as documented: a sliding window of ten seconds, and requests in flight."""

import contextlib
from collections import defaultdict, deque
from collections.abc import Iterator

from local_platform.runpod_emulator.settings import Limit

_WINDOW_SECONDS = 10.0


class TooManyRequests(Exception):
    """The endpoint has reached its rate limit."""


class RateLimiter:
    """Counts requests by any key."""

    def __init__(self) -> None:
        self._times: defaultdict[tuple[str, str], deque[float]] = defaultdict(deque)
        self._in_flight: defaultdict[tuple[str, str], int] = defaultdict(int)

    @contextlib.contextmanager
    def admitted(self, key: tuple[str, str], limit: Limit | None, now: float) -> Iterator[None]:
        """Count a request while it is in flight. Raises TooManyRequests; a refused request is not counted."""
        if limit is None:
            yield
            return
        times = self._times[key]
        while times and times[0] <= now - _WINDOW_SECONDS:
            times.popleft()
        if len(times) >= limit.per_10_seconds or self._in_flight[key] >= limit.concurrent:
            raise TooManyRequests
        times.append(now)
        self._in_flight[key] += 1
        try:
            yield
        finally:
            self._in_flight[key] -= 1
