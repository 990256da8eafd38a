"""Identities: time-ordered ones for what is new, derived ones for what must come out the same every time."""

from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid5

from asyncpg.pgproto import pgproto
from uuid_utils import uuid7

FIRST_ID: Final = UUID(int=0)
"""No id is less."""
_TIME_ORDERED: Final = 7


def new_id() -> UUID:
    """A fresh UUIDv7: unique, and ordered by the millisecond of its making.

    It is of the driver's class, as ids from the database are: that is made, bound and written out in a fraction of the
    time.
    """
    made: UUID = pgproto.UUID(uuid7().bytes)
    return made


def parsed_id(text: str) -> UUID:
    """The id that ``text`` spells, of the driver's class if it is written as usual. Raises ValueError."""
    try:
        parsed: UUID = pgproto.UUID(text)
    except ValueError:
        return UUID(text)
    return parsed


def time_of(message_id: UUID) -> datetime | None:
    """The time inside a UUIDv7; None for an id that carries none."""
    if message_id.version != _TIME_ORDERED:
        return None
    return datetime.fromtimestamp((message_id.int >> 80) / 1000, UTC)


def first_id_at(moment: datetime) -> UUID:
    """The least UUIDv7 of ``moment``."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


def derived_id(namespace: UUID, text: str) -> UUID:
    """The UUIDv5 of ``text`` under ``namespace``: the same arguments always give the same id."""
    return uuid5(namespace, text)


def spelled(message_id: UUID, number: int) -> str:
    """A spelling of the id that every UUID parser reads alike, and that the broker takes for another one.

    A broker that purged a message remembers its id for hours, and would drop the message when it comes again.
    """
    return f"{'{' * number}{message_id}{'}' * number}"


def uuid_or_none(value: str | None) -> UUID | None:
    """``value`` as an id, or None if it is none."""
    try:
        return UUID(value) if value else None
    except ValueError:
        return None
