"""When orders will probably begin and be delivered, as generation last said: kept in memory, and shown as moments.

Nothing is written for it. What generation has not said lately is not shown, and no estimate is in the past.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from contracts.live import OrderEstimate, QueueEstimates
from gateway.events import GenerationEstimated
from gateway.statuses import GenerationStatus

KEPT_FOR: Final = timedelta(seconds=10)
"""Generation says them every 2 s: after so long without a word they may be wrong."""
AT_LEAST: Final = timedelta(seconds=1)
"""What should be there by now comes this soon."""
_WORTH_TELLING: Final = timedelta(seconds=2)
_WORTH_TELLING_SHARE: Final = 0.1
_WAITING: Final[frozenset[GenerationStatus]] = frozenset({"requested", "queued"})
_NOT_BEGUN: Final = _WAITING | {"dispatching"}
_UNDER_WAY: Final = _NOT_BEGUN | {"running"}


@dataclass(frozen=True, slots=True)
class Likely:
    """As likely before as after the first moment, and in nine of ten cases before the second."""

    p50_at: datetime
    p90_at: datetime


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one order may expect. ``start`` until a worker has begun, ``queue_position`` (1 is next) in the queue."""

    queue_position: int | None
    start: Likely | None
    completion: Likely

    def event(self, generation_id: UUID) -> GenerationEstimated:
        """What the event stream says of it."""
        return GenerationEstimated(
            generation_id=generation_id,
            queue_position=self.queue_position,
            estimated_start_at=None if self.start is None else self.start.p50_at,
            estimated_start_p90_at=None if self.start is None else self.start.p90_at,
            estimated_completion_at=self.completion.p50_at,
            estimated_completion_p90_at=self.completion.p90_at,
        )

    def differs(self, told: "Estimate", now: datetime) -> bool:
        """Whether somebody who was told the other one would want to know: a small shift far ahead is none."""
        if (self.queue_position, self.start is None) != (told.queue_position, told.start is None):
            return True
        shift = abs(self.completion.p50_at - told.completion.p50_at)
        return shift > max(_WORTH_TELLING, _WORTH_TELLING_SHARE * (told.completion.p50_at - now))


class Estimates:
    """The newest message about each endpoint."""

    def __init__(self) -> None:
        self._newest: dict[str, QueueEstimates] = {}

    def keep(self, message: QueueEstimates) -> bool:
        """Take a message over, and say whether it is newer than what was there: replicas say them, in any order."""
        before = self._newest.get(message.endpoint)
        if before is not None and before.made_at >= message.made_at:
            return False
        self._newest[message.endpoint] = message
        return True

    def find(self, user_id: UUID, generation_id: UUID, status: GenerationStatus, now: datetime) -> Estimate | None:
        """What the order may expect, as far as its status leaves it open. None: nobody has said it lately."""
        if status not in _UNDER_WAY:
            return None
        for message in self._newest.values():
            if now - message.made_at > KEPT_FOR:
                continue
            for said in message.users.get(user_id, ()):
                if said.generation_id == generation_id:
                    estimate = _estimate(said, message.made_at, now)
                    return Estimate(
                        estimate.queue_position if status in _WAITING else None,
                        estimate.start if status in _NOT_BEGUN else None,
                        estimate.completion,
                    )
        return None


def estimates_of(message: QueueEstimates, user_id: UUID) -> Iterator[tuple[UUID, Estimate]]:
    """What a message says to a user, at the moment of the message."""
    for said in message.users.get(user_id, ()):
        yield said.generation_id, _estimate(said, message.made_at, message.made_at)


def _estimate(said: OrderEstimate, made_at: datetime, now: datetime) -> Estimate:
    return Estimate(
        said.queue_position,
        None if said.start_seconds is None else _likely(said.start_seconds, made_at, now),
        _likely(said.completion_seconds, made_at, now),
    )


def _likely(seconds: tuple[float, float], made_at: datetime, now: datetime) -> Likely:
    p50_at, p90_at = (max(made_at + timedelta(seconds=one), now + AT_LEAST) for one in seconds)
    return Likely(p50_at, p90_at)
