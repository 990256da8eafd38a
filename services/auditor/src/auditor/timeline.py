"""The messages of one generation, payment or user, hop by hop across services, with the latency of each hop."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

from rich.table import Table
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from auditor.terminal import table
from messaging.ids import FIRST_ID

_SUMMARY_FIELDS: Final = (
    "status",
    "reason",
    "kind",
    "model_id",
    "lane",
    "attempt_number",
    "provider_job_id",
    "price_credits",
    "amount_credits",
    "captured_credits",
    "released_credits",
    "capture_credits",
    "required_credits",
    "available_credits",
    "clawed_back_credits",
    "receivable_credits",
    "size_bytes",
    "worker_seconds",
    "late",
    "code",
    "detail",
    "retry_at",
)
"""Fields of payloads that an operator wants to see; the rest is in the journal."""

# An id with a time is older than its messages: the partitions before it are not visited. A message whose own id has no
# time is in the default partition.
ENTRIES_OF_SUBJECT: Final = """
    SELECT * FROM auditor.journal WHERE message_id >= :first AND correlation_id = :id
    UNION ALL (
        SELECT * FROM auditor.journal WHERE message_id >= :first AND user_id = :id AND correlation_id <> :id
        ORDER BY occurred_at DESC LIMIT :limit
    )
    UNION ALL
    SELECT * FROM auditor.journal_default WHERE message_id < :first AND (correlation_id = :id OR user_id = :id)
"""
"""The messages of an order or a payment, or the latest ``:limit`` of a user."""
_OLDER_MS: Final = 24 * 3600 * 1000
_TIME_ORDERED: Final = 7
_TIME_SHIFT: Final = 80
"""A UUIDv7 begins with its time, in milliseconds."""
_ENTRIES: Final = text(
    f"""
    SELECT j.message_id, j.subject, j.producer, j.correlation_id, j.occurred_at, j.traceparent, j.payload,
           cause.subject, cause.occurred_at
    FROM (
        SELECT * FROM ({ENTRIES_OF_SUBJECT}) AS every ORDER BY occurred_at DESC, message_id DESC LIMIT :limit
    ) AS j
    -- One by one: a join of whole tables would read the whole journal.
    LEFT JOIN LATERAL (
        SELECT subject, occurred_at FROM auditor.journal AS c WHERE c.message_id = j.causation_id LIMIT 1
    ) AS cause ON true
    ORDER BY j.occurred_at DESC, j.message_id DESC
    """  # noqa: S608 - a constant
)


class _Entry(NamedTuple):
    """A message of the journal, and what is known of the message that caused it."""

    message_id: UUID
    subject: str
    producer: str
    correlation_id: UUID
    occurred_at: datetime
    traceparent: str | None
    payload: Mapping[str, object]
    cause_subject: str | None
    cause_occurred_at: datetime | None


@dataclass(frozen=True, slots=True)
class Hop:
    """One message on its way between services.

    ``hop_ms`` is the time from the message that caused it; for the first of a chain it is None. Both clocks are the
    database's.
    """

    message_id: UUID
    occurred_at: datetime
    producer: str
    name: str
    correlation_id: UUID
    cause: str | None
    since_start_ms: float
    hop_ms: float | None
    trace_id: str | None
    summary: str


async def read_timeline(connection: AsyncConnection, identity: UUID, limit: int = 200) -> list[Hop]:
    """The messages of a generation, a payment or a user, oldest first; the latest ``limit`` if there are more."""
    values = {"id": identity, "first": first_message_of(identity), "limit": limit}
    rows = await connection.execute(_ENTRIES, values)
    entries = [_Entry(*row) for row in rows][::-1]
    return [_hop(entry, entries[0].occurred_at) for entry in entries]


def first_message_of(identity: UUID) -> UUID:
    """No message about ``identity`` has an id below this, unless it has one without a time."""
    if identity.version != _TIME_ORDERED:
        return FIRST_ID
    return UUID(int=max((identity.int >> _TIME_SHIFT) - _OLDER_MS, 0) << _TIME_SHIFT)


def render_timeline(hops: list[Hop]) -> Table:
    """When, how long after the cause, which service published which message, and because of which."""
    rows = [
        (
            hop.occurred_at.astimezone(UTC).strftime("%m-%d %H:%M:%S.%f")[:-3],
            f"{hop.since_start_ms:,.0f}",
            "" if hop.hop_ms is None else f"{hop.hop_ms:,.0f}",
            hop.producer,
            hop.name,
            hop.cause or "",
            hop.summary,
        )
        for hop in hops
    ]
    return table(("at (UTC)", "ms", "hop ms", "service", "message", "because of", "what"), rows, right=(1, 2))


def _hop(entry: _Entry, start: datetime) -> Hop:
    caused_at = entry.cause_occurred_at
    return Hop(
        message_id=entry.message_id,
        occurred_at=entry.occurred_at,
        producer=entry.producer,
        name=_short(entry.subject),
        correlation_id=entry.correlation_id,
        cause=None if entry.cause_subject is None else _short(entry.cause_subject),
        since_start_ms=_milliseconds(start, entry.occurred_at),
        hop_ms=None if caused_at is None else _milliseconds(caused_at, entry.occurred_at),
        trace_id=entry.traceparent.split("-")[1] if entry.traceparent else None,
        summary=_summary(entry.payload),
    )


def _short(subject: str) -> str:
    """``billing.event.credits-reserved.v1`` becomes ``credits-reserved``."""
    return subject.split(".")[2]


def _milliseconds(earlier: datetime, later: datetime) -> float:
    return (later - earlier).total_seconds() * 1000


def _summary(payload: Mapping[str, object]) -> str:
    inner = [part for name in ("order", "payment", "claim") if isinstance(part := payload.get(name), dict)]
    # The variants of an order are alike.
    if isinstance(variants := payload.get("orders"), list):
        inner += variants[:1]
    shown: dict[str, object] = {}
    for part in (payload, *inner):
        for name in _SUMMARY_FIELDS:
            if part.get(name) is not None and part.get(name) is not False:
                shown.setdefault(name, part[name])
    return " ".join(f"{name.removesuffix('_credits')}={value}" for name, value in shown.items())
