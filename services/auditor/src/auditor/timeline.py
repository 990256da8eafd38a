"""What happened to one generation or payment, hop by hop across services, with the latency of each hop."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from auditor.text_tables import render_table

_TELLING: Final = (
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
"""Fields of payloads that tell an operator something; the rest is in the journal."""

_ENTRIES: Final = text(
    """
    SELECT j.message_id, j.subject, j.producer, j.correlation_id, j.causation_id, j.occurred_at, j.traceparent,
           j.payload, cause.subject AS cause_subject, cause.occurred_at AS cause_occurred_at
    FROM auditor.journal AS j
    LEFT JOIN auditor.journal AS cause ON cause.message_id = j.causation_id
    WHERE j.correlation_id = :id OR j.user_id = :id
    ORDER BY j.occurred_at DESC, j.message_id DESC
    LIMIT :limit
    """
)


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


async def timeline(connection: AsyncConnection, identity: UUID, limit: int = 200) -> list[Hop]:
    """The messages of a generation, a payment or a user, oldest first; the latest ``limit`` if there are more."""
    rows = (await connection.execute(_ENTRIES, {"id": identity, "limit": limit})).mappings().all()
    ordered = list(reversed(rows))
    return [_hop(row, ordered[0]["occurred_at"]) for row in ordered]


def render_timeline(hops: list[Hop]) -> str:
    """A table for the terminal: when, how long after the cause, who said what because of what."""
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
    return render_table(("at (UTC)", "ms", "hop ms", "service", "message", "because of", "what"), rows, right=(1, 2))


def _hop(row: Mapping[Any, Any], start: datetime) -> Hop:
    caused_at = row["cause_occurred_at"]
    return Hop(
        message_id=row["message_id"],
        occurred_at=row["occurred_at"],
        producer=row["producer"],
        name=_short(row["subject"]),
        correlation_id=row["correlation_id"],
        cause=None if row["cause_subject"] is None else _short(row["cause_subject"]),
        since_start_ms=_milliseconds(start, row["occurred_at"]),
        hop_ms=None if caused_at is None else _milliseconds(caused_at, row["occurred_at"]),
        trace_id=row["traceparent"].split("-")[1] if row["traceparent"] else None,
        summary=_summary(row["payload"]),
    )


def _short(subject: str) -> str:
    """``billing.event.credits-reserved.v1`` is credits-reserved."""
    return subject.split(".")[2]


def _milliseconds(earlier: datetime, later: datetime) -> float:
    return (later - earlier).total_seconds() * 1000


def _summary(payload: Mapping[str, Any]) -> str:
    inner = [part for name in ("order", "payment", "claim") if isinstance(part := payload.get(name), dict)]
    seen: dict[str, Any] = {}
    for part in (payload, *inner):
        for name in _TELLING:
            if part.get(name) is not None and part.get(name) is not False:
                seen.setdefault(name, part[name])
    return " ".join(f"{name.removesuffix('_credits')}={value}" for name, value in seen.items())
