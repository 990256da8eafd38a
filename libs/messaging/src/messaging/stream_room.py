"""How long a stream keeps its messages: less than its retention only while it is nearly full.

A full stream refuses what comes, so orders would stop. What everybody has read is only history by then, and goes first;
what only the journal has not read goes with it. What any other service has not read stays, whatever that costs.
A service sees a shorter retention as such (``amnesia``): nothing is taken for lost, and nothing is published again.
For the same reason a retention grows only as fast as time passes: what has left the stream must not look younger than
the retention, or its relay would take it for lost.
"""

from dataclasses import dataclass
from typing import Final

from messaging.positions import EXPIRY_MARGIN

NEARLY_FULL: Final = 0.8
"""The share of its limit at which a stream gives up history."""
MADE_ROOM: Final = 0.6
"""The share at which it aims then."""
ROOM_ENOUGH: Final = 0.5
"""The share below which the retention grows again. In between nothing changes."""
GROWTH_SECONDS: Final = EXPIRY_MARGIN.total_seconds() / 2
"""How much longer than the age of its oldest message a stream may keep messages: relays allow for twice as much."""
UNREAD_MARGIN_SECONDS: Final = 15 * 60.0
"""Clocks differ, and what is read now may have to be read again after a crash."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a stream holds: how full it is, how old its oldest message is, and whether any message has left it.

    ``unread_seconds`` is the age of the oldest message that a service has yet to read.
    """

    full: float
    oldest_seconds: float
    unread_seconds: float | None
    is_whole: bool = False


def kept_seconds(retention_seconds: float, standing_seconds: float, least_seconds: float, contents: Contents) -> float:
    """For how long the stream is to keep messages from now on, in whole seconds.

    ``standing_seconds`` is what it does now. It is never less than ``least_seconds``, and never so little that a
    message goes before the services have read it.
    """
    if contents.full >= NEARLY_FULL:
        unread = 0.0 if contents.unread_seconds is None else contents.unread_seconds + UNREAD_MARGIN_SECONDS
        aim = contents.oldest_seconds * MADE_ROOM / contents.full
        return min(retention_seconds, standing_seconds, float(round(max(aim, unread, least_seconds))))
    if contents.is_whole or standing_seconds >= retention_seconds:
        return retention_seconds
    if contents.full > ROOM_ENOUGH:
        return standing_seconds
    return min(retention_seconds, max(standing_seconds, float(round(contents.oldest_seconds + GROWTH_SECONDS))))
