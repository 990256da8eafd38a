"""Decisions of the gateway that need no input or output."""

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, get_args
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from contracts.payments import Provider
from contracts.values import Lane

LARGEST_NUMBER: Final = 2**63 - 1
"""The largest integer that the database holds."""

LOCALHOST: Final = r"https?://(localhost|127\.0\.0\.1)(:\d{1,5})?"
"""The origins of a developer's machine."""
LONGEST_MOMENT: Final = 40
_MOMENT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?([Zz]|[+-][0-9]{2}:?[0-9]{2})"
)
_LANES: Final[dict[str, Lane]] = {lane: lane for lane in get_args(Lane)}

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class User:
    """The signed-in user, as the verified token names them."""

    user_id: UUID
    lane: Lane
    token_expires_at: float
    is_confirmed: bool = True
    """Signed up for good: no anonymous user, and none whose token says that their address is not confirmed."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended: the time and id of its last row."""

    at: datetime
    row_id: UUID


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """A user's request for ``count`` generations, not yet checked against the model."""

    model_id: str
    parameters: dict[str, Any]
    max_price_credits: int | None
    start_within_seconds: int | None = None
    count: int = 1

    @property
    def digest(self) -> bytes:
        """Equal for equal requests, also for those that came before a member was known."""
        content: dict[str, Any] = {
            "model_id": self.model_id,
            "parameters": self.parameters,
            "max_price_credits": self.max_price_credits,
        }
        if self.start_within_seconds is not None:
            content["start_within_seconds"] = self.start_within_seconds
        if self.count != 1:
            content["count"] = self.count
        return request_hash(content)


@dataclass(frozen=True, slots=True)
class PurchaseRequest:
    """A user's request to buy a credit pack."""

    pack_id: str
    provider: Provider
    return_url: str | None = None

    @property
    def digest(self) -> bytes:
        """Equal for equal requests."""
        wanted = {"pack_id": self.pack_id, "provider": self.provider}
        return request_hash(wanted if self.return_url is None else {**wanted, "return_url": self.return_url})


def lane_of(token_claims: Mapping[str, Any]) -> Lane:
    """The lane of the plan that the backend wrote into the token; an unknown plan is ``free``."""
    metadata = token_claims.get("app_metadata")
    plan = metadata.get("plan") if isinstance(metadata, dict) else None
    return _LANES.get(plan, "free") if isinstance(plan, str) else "free"


def is_confirmed(token_claims: Mapping[str, Any]) -> bool:
    """Whether the token speaks of a user who signed up, with an address that is not known to be unconfirmed.

    Supabase gives no token for an unconfirmed address where it asks for confirmation. Where it does not, it says so in
    ``user_metadata``, which users can write: so a claim can only take away, and never give.
    """
    metadata = token_claims.get("user_metadata")
    said = [metadata.get("email_verified")] if isinstance(metadata, dict) else []
    said.append(token_claims.get("email_verified"))
    return not token_claims.get("is_anonymous") and all(claim in (None, True) for claim in said)


def request_hash(body: Mapping[str, Any]) -> bytes:
    """The hash of a request's content. The order of its keys does not change it."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).digest()


def encode_cursor(cursor: Cursor) -> str:
    """The cursor as clients see it: opaque."""
    return base64.urlsafe_b64encode(msgspec.json.encode([cursor.at, cursor.row_id])).decode().rstrip("=")


def decode_cursor(text: str) -> Cursor | None:
    """The cursor of an earlier page; None for anything else."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        at, row_id = msgspec.json.decode(raw, type=tuple[datetime, UUID])
        return Cursor(in_utc(at), row_id) if at.tzinfo is not None else None
    except (binascii.Error, msgspec.DecodeError, ValueError):
        return None


def split_page(rows: Sequence[Row], limit: int, cursor_of: Callable[[Row], Cursor]) -> tuple[Sequence[Row], str | None]:
    """The first ``limit`` rows, and the cursor of the next page if there are more rows than that."""
    page = rows[:limit]
    return page, encode_cursor(cursor_of(page[-1])) if len(rows) > limit else None


def download_name(model_id: str, requested_at: datetime, generation_id: UUID) -> str:
    """The name, without its ending, under which a file is saved: sortable, and safe in a header and on any disk.

    The end of the id tells apart orders of one second; its beginning is the time.
    """
    model = re.sub(r"[^A-Za-z0-9._-]", "_", model_id)
    return f"{model}-{requested_at.astimezone(UTC):%Y%m%d-%H%M%S}-{generation_id.hex[-6:]}"


def origin_of(url: str) -> str | None:
    """The origin of a page's address as a browser sends it; None if it is no address of a page."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or not url.isprintable():
        return None
    is_usual = port is None or port == {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{parts.hostname}" + ("" if is_usual else f":{port}")


def with_payment(url: str, payment_id: UUID) -> str:
    """The same address with ``payment_id`` in its query, in place of one that an earlier checkout has left there."""
    parts = urlsplit(url)
    others = [one for one in parts.query.split("&") if one and not one.startswith("payment_id=")]
    return parts._replace(query="&".join([*others, f"payment_id={payment_id}"])).geturl()


def in_utc(at: datetime) -> datetime:
    """The same moment in UTC. Raises ValueError for one that is outside the calendar there."""
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is out of range") from error


def written_number(text: object) -> object:
    """A number in a query or a header, if it is one as people write it. Raises ValueError for `1_0`, `+1` and ` 1`.

    Python reads those as numbers, and digits of other scripts, too.
    """
    if isinstance(text, str) and not re.fullmatch(r"[0-9]{1,19}", text):
        raise ValueError("is not a number in digits")
    return text


def written_moment(text: object) -> object:
    """A moment in a query, if it is one of RFC 3339. Raises ValueError for `0.5`, which would be seconds since 1970."""
    if isinstance(text, str) and not (len(text) <= LONGEST_MOMENT and _MOMENT.fullmatch(text)):
        raise ValueError("is not a moment as 2026-11-23T09:30:00Z")
    return text


def written_day(text: object) -> object:
    """A day in a query, if it is one of this millennium. Raises ValueError for `20261123` and numbers of seconds."""
    if isinstance(text, str) and not re.fullmatch(r"2[0-9]{3}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError("is not a day of this millennium, as 2026-11-23")
    return text


def is_storable(value: object) -> bool:
    """Whether this is a scalar that PostgreSQL's JSON can hold: no NUL, no half of a surrogate pair, no infinity."""
    if isinstance(value, list | dict):
        return False
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
    return not isinstance(value, float) or math.isfinite(value)
