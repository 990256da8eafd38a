"""Everything that the services hold about one id, for the operator: `show <generation_id|payment_id|user_id>`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from auditor.errors import UnknownIdentity
from auditor.text_tables import render_record, render_table
from auditor.timeline import Hop, render_timeline, timeline
from contracts.message import SERVICES

ROWS_PER_SECTION: Final = 50
TRACES_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Section:
    """What one table says. One row is shown as a record, several as a table."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Dossier:
    """The answer to "what happened to this id?"."""

    identity: UUID
    hops: tuple[Hop, ...]
    sections: tuple[Section, ...]


def _mentions(schema: str) -> str:
    return f"""
        SELECT '{schema}' AS schema, consumer, subject, reason, error, deliveries, dead_at, replayed_at, message_id
        FROM {schema}.dead_letters
        WHERE correlation_id = :id OR position(convert_to(CAST(:id AS text), 'UTF8') IN payload) > 0
    """  # noqa: S608 - schema names are constants of the contracts


def _unpublished(schema: str) -> str:
    return f"""
        SELECT '{schema}' AS schema, subject, created_at, message_id
        FROM {schema}.outbox_messages
        WHERE published_at IS NULL AND correlation_id = :id
    """  # noqa: S608 - as above


_QUERIES: Final[dict[str, str]] = {
    "Request (gateway)": """
        SELECT generation_id, user_id, idempotency_key, created_at, verdict, required_credits, available_credits
        FROM gateway.generation_requests WHERE generation_id = :id
    """,
    "What the user is shown (gateway)": """
        SELECT status, version, price_credits, attempt_number, failure_code, late, captured_credits, released_credits,
               object_key, completed_at, updated_at
        FROM gateway.generations WHERE generation_id = :id
    """,
    "Generation": """
        SELECT generation_id, user_id, model_id, kind, lane, status, version, price_credits, attempt_count, failures,
               failure_code, failure_detail, sought_code, sought_detail, late, asset_id, requested_at, expires_at,
               deadline_at, next_attempt_at, finished_at
        FROM generation.video_generations WHERE :id IN (generation_id, user_id)
        ORDER BY requested_at DESC
    """,
    "Attempts": """
        SELECT attempt_number, status, endpoint_id, provider_job_id, prepared_at, submitted_at, started_at, ended_at,
               check_at, failure_code, failure_detail, execution_ms, size_bytes, attempt_id
        FROM generation.attempts WHERE generation_id = :id ORDER BY attempt_number
    """,
    "What the provider said": """
        SELECT c.received_at, c.source, a.attempt_number, c.processed_at, c.tries, c.outcome
        FROM generation.provider_callbacks AS c JOIN generation.attempts AS a USING (attempt_id)
        WHERE a.generation_id = :id ORDER BY c.received_at
    """,
    "Asset": """
        SELECT asset_id, role, attempt_number, object_key, poster_object_key, size_bytes, sha256, media, stored_at
        FROM storage.assets WHERE generation_id = :id
    """,
    "What storage was asked": """
        SELECT subject, asked_at, answered_at, answer, tries, next_try_at
        FROM storage.verifications WHERE generation_id = :id ORDER BY asked_at
    """,
    "Reservation": """
        SELECT r.generation_id, r.user_id, r.amount_credits, r.status, r.captured_credits, r.reserved_at,
               r.deadline_at, r.resolved_at, r.reservation_id
        FROM billing.reservations AS r WHERE :id IN (r.generation_id, r.user_id) ORDER BY r.reserved_at DESC
    """,
    "Refusal": """
        SELECT generation_id, user_id, code, required_credits, available_credits, refused_at
        FROM billing.refusals WHERE :id IN (generation_id, user_id) ORDER BY refused_at DESC
    """,
    "Payment": """
        SELECT payment_id, user_id, provider, provider_reference, status, resolution, version, pack_id, price_cents,
               currency, credits, bonus_credits, refunded_cents, detail, created_at, settled_at, next_look_at, looks
        FROM payments.payment_transactions WHERE :id IN (payment_id, user_id) ORDER BY created_at DESC
    """,
    "Credits ordered for the payment": """
        SELECT kind, reference, amount_credits, ordered_at, posted_at, movement_id
        FROM payments.credit_movements WHERE payment_id = :id ORDER BY ordered_at
    """,
    "Refunds": """
        SELECT amount_cents, state, actor, note, provider_reference, created_at, updated_at, next_try_at, tries
        FROM payments.refunds WHERE payment_id = :id ORDER BY created_at
    """,
    "Disputes": """
        SELECT amount_cents, state, provider_reference, created_at, updated_at
        FROM payments.disputes WHERE payment_id = :id ORDER BY created_at
    """,
    "Reviews": """
        SELECT code, expected, found, opened_at, resolved_at, resolution, actor, note, review_id
        FROM payments.reviews WHERE payment_id = :id ORDER BY opened_at
    """,
    "Events of the provider": """
        SELECT received_at, event_type, source, reference, matched_at, event_id
        FROM payments.provider_events WHERE payment_id = :id ORDER BY received_at
    """,
    "Grants": """
        SELECT reason, amount_credits, remaining_credits, actor, payment_id, note, granted_at, expires_at, grant_id
        FROM billing.grants WHERE :id IN (user_id, payment_id, grant_id) ORDER BY granted_at DESC
    """,
    "Clawbacks": """
        SELECT reason, taken_credits, receivable_credits, payment_id, note, clawed_back_at, clawback_id
        FROM billing.clawbacks WHERE :id IN (user_id, payment_id, clawback_id) ORDER BY clawed_back_at DESC
    """,
    "Postings (ledger), latest first": """
        SELECT posting_id, occurred_at, reason, account, amount_credits, line_number, user_id, generation_id,
               payment_id, note
        FROM billing.balance_ledger WHERE :id IN (generation_id, payment_id, user_id, grant_id, clawback_id)
        ORDER BY posting_id DESC
    """,
    "Balance of the user": """
        SELECT user_id, available_credits, reserved_credits, receivable_credits, line_number
        FROM billing.users WHERE user_id IN (
            SELECT :id
            UNION SELECT user_id FROM billing.reservations WHERE generation_id = :id
            UNION SELECT user_id FROM payments.payment_transactions WHERE payment_id = :id
        )
    """,
    "Messages that wait to be published": " UNION ALL ".join(_unpublished(schema) for schema in SERVICES),
    "Dead letters": " UNION ALL ".join(_mentions(schema) for schema in SERVICES),
    "Findings": """
        SELECT code, severity, expected, found, first_seen_at, last_seen_at, resolved_at
        FROM auditor.findings
        WHERE subject_key = CAST(:id AS text)
           OR subject_key IN (SELECT CAST(message_id AS text) FROM auditor.journal WHERE correlation_id = :id)
        ORDER BY first_seen_at
    """,
}


async def dossier(connection: AsyncConnection, identity: UUID) -> Dossier:
    """Look in every schema for ``identity``. Raises UnknownIdentity if there is no trace of it."""
    hops = await timeline(connection, identity)
    found = [await _section(connection, title, query, identity) for title, query in _QUERIES.items()]
    sections = tuple(section for section in found if section.rows)
    if not hops and not sections:
        raise UnknownIdentity(f"no service knows {identity}, and no message mentions it")
    return Dossier(identity=identity, hops=tuple(hops), sections=sections)


def render_dossier(dossier: Dossier) -> str:
    """The dossier as text: the timeline first, then what each service holds."""
    parts = [f"# {dossier.identity}"]
    if dossier.hops:
        parts.append(f"## Timeline\n{render_timeline(list(dossier.hops))}")
        traces = sorted({hop.trace_id for hop in dossier.hops if hop.trace_id})
        if traces:
            parts.append(f"traces: {', '.join(traces[:TRACES_SHOWN])}")
    parts += [f"## {section.title}\n{_rendered(section)}" for section in dossier.sections]
    return "\n\n".join(parts)


async def _section(connection: AsyncConnection, title: str, query: str, identity: UUID) -> Section:
    typed = query.replace("CAST(:id AS text)", f"'{identity}'").replace(":id", "CAST(:id AS uuid)")
    result = await connection.execute(
        text(f"SELECT * FROM ({typed}) AS part LIMIT {ROWS_PER_SECTION}"),  # noqa: S608 - the identity is a UUID
        {"id": identity},
    )
    return Section(title=title, columns=tuple(result.keys()), rows=tuple(tuple(row) for row in result.all()))


def _rendered(section: Section) -> str:
    if len(section.rows) == 1:
        return render_record(zip(section.columns, section.rows[0], strict=True))
    used: Sequence[int] = [
        number for number in range(len(section.columns)) if any(row[number] is not None for row in section.rows)
    ]
    rows = [[row[number] for number in used] for row in section.rows]
    numbers = [place for place in range(len(used)) if all(isinstance(row[place], int | None) for row in rows)]
    return render_table([section.columns[number] for number in used], rows, right=numbers)
