"""How often a process died, and what follows from it. Pure: the caller has the clock."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from service_runtime.backoff import Backoff

MAX_DEATHS: Final = 10
"""A process that dies more often than this in one window does not get better by another start."""
WINDOW_SECONDS: Final = 60.0
BACKOFF: Final = Backoff(first=timedelta(seconds=0.25), longest=timedelta(seconds=8))


@dataclass
class Deaths:
    """The deaths of the processes of one platform."""

    _times: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, now: float) -> int:
        """Record a death and return the number of deaths of this process in the last minute."""
        times = self._times.setdefault(name, [])
        times.append(now)
        return sum(1 for time in times if time > now - WINDOW_SECONDS)

    def count(self, name: str) -> int:
        """All deaths of this process."""
        return len(self._times.get(name, ()))
