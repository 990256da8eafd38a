"""Which database errors say nothing about the message that was being handled."""

import asyncio
from typing import Final

import sqlalchemy.exc

from messaging.errors import DatabaseUnavailableError

_TRANSIENT_CLASSES: Final = ("08", "53", "57P", "58")
"""SQLSTATE classes: connection, insufficient resources, shutdown, system error."""

_TRANSIENT_STATES: Final = ("40001", "40P01", "55P03", "25P03")
"""Serialization failure, deadlock, lock timeout, idle-in-transaction timeout."""


def is_unavailable(error: BaseException) -> bool:
    """Whether ``error``, or what it was raised from, means: the same work may well succeed later, unchanged."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if _is_transient(current):
            return True
        current = current.__cause__ or current.__context__
    return False


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, DatabaseUnavailableError | sqlalchemy.exc.TimeoutError | sqlalchemy.exc.InterfaceError):
        return True
    if not isinstance(error, sqlalchemy.exc.DBAPIError):
        return False
    if error.connection_invalidated or isinstance(error.orig, OSError | asyncio.TimeoutError):
        return True
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return state in _TRANSIENT_STATES or state.startswith(_TRANSIENT_CLASSES)
