"""Identities: time-ordered ones for what is new, derived ones for what must come out the same every time."""

from uuid import UUID, uuid5

from uuid_utils.compat import uuid7


def new_id() -> UUID:
    """A fresh UUIDv7: unique, and ordered by the millisecond of its making."""
    return uuid7()


def derived_id(namespace: UUID, text: str) -> UUID:
    """The UUIDv5 of ``text`` under ``namespace``: the same arguments always give the same id."""
    return uuid5(namespace, text)
