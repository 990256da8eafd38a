"""How long to wait after a failure. Pure, so that domain modules may use it: no clock, no random numbers."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

_MOST_GROWTH: Final = 64
"""Failures after which no wait grows any more; it keeps the arithmetic far from overflow."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """A retry policy: ``first`` after the first failure, ``factor`` times longer after each further one.

    ``longest`` bounds the wait, and ``jitter`` is the share of it by which it may come out shorter or longer. With
    the defaults, ``Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=1))`` waits about 1, 2, 4, 8, 16, 32
    and 60 seconds, then 60 seconds each time.

    **Why it grows**: what failed twice is more likely to be down than unlucky, and each retry is load on something
    that is in trouble. **Why it is bounded**: when the trouble is over, the work goes on after ``longest`` at most.
    **Why jitter**: an outage makes thousands of items fail in the same second. Without jitter they come back in the
    same second, too, and knock over what has just recovered. A tenth of the wait is enough to spread them, and small
    enough that an operator can still say when the next try is.

    The jitter of an item is drawn from its ``key``. So two items spread, while one item has the same wait in every
    process and in every run of a test.
    """

    first: timedelta
    longest: timedelta
    factor: float = 2.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if not timedelta(0) < self.first <= self.longest or self.factor < 1 or not 0 <= self.jitter < 1:
            raise ValueError(f"not a backoff: {self}")

    def delay(self, failures: int, key: object = "") -> timedelta:
        """The wait after failure number ``failures`` of the item ``key``. The first failure is number 1."""
        grown = self.first.total_seconds() * self.factor ** min(max(0, failures - 1), _MOST_GROWTH)
        bounded = min(self.longest.total_seconds(), grown)
        return timedelta(seconds=bounded * (1 + self.jitter * _spread(f"{key}/{failures}")))

    def seconds(self, failures: int, key: object = "") -> float:
        """:meth:`delay` in seconds."""
        return self.delay(failures, key).total_seconds()


def _spread(text: str) -> float:
    """A number between -1 and 1 that looks random and depends on ``text`` alone."""
    drawn = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return drawn / 2**63 - 1
