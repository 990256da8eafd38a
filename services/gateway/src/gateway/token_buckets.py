"""A rate limit in this process's memory: for each key a bucket that refills evenly."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

from gateway.rate_limit_headers import Allowance, Limit

MOST_KEYS: Final = 100_000
"""Whoever has ever so many addresses fills no more memory than this: the longest unused buckets are forgotten."""


class TokenBuckets:
    """One bucket of ``limit.quota`` tokens for each key. A key without a bucket has a full one."""

    def __init__(self, limit: Limit, clock: Callable[[], float] = time.monotonic, most_keys: int = MOST_KEYS) -> None:
        self.limit = limit
        self._clock = clock
        self._most_keys = most_keys
        self._seconds_a_token = limit.window_seconds / limit.quota
        # When the bucket will be full again: all that must be known of it. The longest unused one stands first.
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def take(self, key: Hashable) -> Allowance | None:
        """Take one token; None if there is none."""
        now = self._clock()
        full_at = max(now, self._full_at.get(key, now)) + self._seconds_a_token
        if full_at > now + self.limit.window_seconds + 1e-9:
            return None
        self._remember(key, full_at, now)
        return self._allowance(full_at - now)

    def give_back(self, key: Hashable) -> None:
        """Put back a token that was taken."""
        if key in self._full_at:
            self._full_at[key] -= self._seconds_a_token

    def exhausted(self, key: Hashable) -> Allowance:
        """What a caller without a token is told: when there will be one."""
        now = self._clock()
        wait = self._full_at.get(key, now) - now + self._seconds_a_token - self.limit.window_seconds
        return Allowance(self.limit, 0, max(1, math.ceil(wait)))

    def _allowance(self, seconds_to_full: float) -> Allowance:
        tokens = math.floor((self.limit.window_seconds - seconds_to_full) / self._seconds_a_token + 1e-9)
        return Allowance(self.limit, tokens, self.limit.refill_seconds)

    def _remember(self, key: Hashable, full_at: float, now: float) -> None:
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        while len(self._full_at) > self._most_keys or next(iter(self._full_at.values())) <= now:
            self._full_at.popitem(last=False)
