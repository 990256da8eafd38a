"""Decisions of the gateway that need no input or output."""

import base64
import binascii
import hashlib
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts.values import Lane

TERMINAL: Final = frozenset({"refused", "completed", "failed", "cancelled"})
"""A generation in one of these states moves no more, but for a file that turns up late."""

LARGEST_NUMBER: Final = 2**63 - 1
"""What the database can count to."""

LANES: Final[dict[str, Lane]] = {"free": "free", "standard": "standard", "pro": "pro"}


@dataclass(frozen=True)
class User:
    """Who is signed in. Nothing but the verified token says so."""

    user_id: UUID
    lane: Lane
    token_expires_at: float


@dataclass(frozen=True)
class Cursor:
    """Where a page ended: the time and id of its last row."""

    at: datetime
    row_id: UUID


def lane_of(claims: dict[str, Any]) -> Lane:
    """The plan that the backend wrote to the token, as a lane; an unknown plan waits with the free ones."""
    metadata = claims.get("app_metadata")
    plan = metadata.get("plan") if isinstance(metadata, dict) else None
    return LANES.get(plan, "free") if isinstance(plan, str) else "free"


def request_hash(body: Any) -> bytes:
    """What makes two requests the same: their content, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).digest()


def encode_cursor(cursor: Cursor) -> str:
    """Opaque to clients."""
    return base64.urlsafe_b64encode(msgspec.json.encode([cursor.at, cursor.row_id])).decode().rstrip("=")


def decode_cursor(text: str) -> Cursor | None:
    """The cursor of an earlier page; None for anything else."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        at, row_id = msgspec.json.decode(raw, type=tuple[datetime, UUID])
        return Cursor(in_utc(at), row_id) if at.tzinfo is not None else None
    except (binascii.Error, msgspec.DecodeError, ValueError):
        return None


def in_utc(at: datetime) -> datetime:
    """The same moment in UTC. Raises ValueError for one that the calendar has no room for there."""
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is out of range") from error


def is_storable(value: Any) -> bool:
    """Whether this is a scalar that PostgreSQL's JSON can hold: no NUL, no half of a surrogate pair, no infinity."""
    if isinstance(value, list | dict):
        return False
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
    return not isinstance(value, float) or math.isfinite(value)
