"""The sections of a chapter: what to ask the schemas about a generation, a payment or a user, as SQL.

``:id`` is the subject's UUID, ``:key`` the same as text, ``:argument`` what the operator typed (``:argument_id`` if it
is a UUID), and ``:orders`` the ids by which the subject's messages are correlated: of a user with a long history, those
of the newest orders. ``:counted`` is how many rows are counted at most. Where there may be more rows than are shown,
the latest come first.

What belongs to a user is asked of each dead letter, retry and finding, and not the other way round: those are few, and
a user may have any number of orders.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from auditor.dossier.identities import IdColumn, SubjectKind
from auditor.dossier.owners import OWNERS_OF_PART, message_of, owners_of, owners_of_message
from auditor.dossier.subjects import MESSAGES, PARTS
from auditor.schemas import for_each_schema
from contracts.message import SERVICES, Service
from contracts.permissions import durable_name
from contracts.registry import consumed_by, stream_of


@dataclass(frozen=True, slots=True)
class SectionQuery:
    """One section. ``where`` is its condition for each kind of subject; other kinds do not have the section.

    ``whole_records``: the rows are shown one by one, because their texts are too long for a table.
    """

    title: str
    query: str
    where: Mapping[SubjectKind, str]
    whole_records: bool = False


SHORTEST_MENTION: Final = 8
"""Characters. Anything shorter is in the text of any message or finding."""

_OF_GENERATION: Final[Mapping[SubjectKind, str]] = {"generation": "generation_id = :id"}
# By the orders, not by an index of all that the user ever ordered: so it is no comparison that an index serves.
_THEIRS: Final = "user_id IS NOT DISTINCT FROM :id"
_OF_ORDER: Final[Mapping[SubjectKind, str]] = {
    **_OF_GENERATION,
    "user": f"{_THEIRS} AND generation_id = ANY(:orders)",
}
_OF_PAYMENT: Final[Mapping[SubjectKind, str]] = {
    "payment": "payment_id = :id",
    "user": "payment_id = ANY(:orders)",
}
_OF_PURCHASE: Final[Mapping[SubjectKind, str]] = {
    "payment": "payment_id = :id",
    "user": f"{_THEIRS} AND payment_id = ANY(:orders)",
}
_OF_MONEY: Final[Mapping[SubjectKind, str]] = {
    **_OF_GENERATION,
    **_OF_PURCHASE,
    # A statement has no gaps: its last lines are its end.
    "user": """user_id = :id AND line_number > (
        SELECT max(line_number) FROM billing.balance_ledger WHERE user_id = :id) - :counted - 1""",
}
_OF_NO_USER: Final[Mapping[SubjectKind, str]] = dict.fromkeys(
    ("generation", "payment", "correlation", "mention"), "true"
)
_OF_A_USER: Final[Mapping[SubjectKind, str]] = {"user": "true"}
_FOR_ALL: Final[Mapping[SubjectKind, str]] = {**_OF_NO_USER, **_OF_A_USER}

_OWNER: Final[Mapping[SubjectKind, str]] = {
    "user": "user_id = :id",
    "generation": """user_id IN (
        SELECT user_id FROM gateway.generation_requests WHERE generation_id = :id
        UNION SELECT user_id FROM billing.reservations WHERE generation_id = :id
        UNION SELECT user_id FROM generation.video_generations WHERE generation_id = :id
    )""",
    "payment": """user_id IN (
        SELECT user_id FROM gateway.payment_requests WHERE payment_id = :id
        UNION SELECT user_id FROM payments.payment_transactions WHERE payment_id = :id
        UNION SELECT user_id FROM billing.grants WHERE payment_id = :id
    )""",
}


def _consumers(service: Service) -> str:
    """Every durable of ``service``: with them, the primary key of its inbox finds a message."""
    streams = sorted({stream_of(message.subject) for message in consumed_by(service)})
    return ", ".join(f"'{durable_name(service, stream)}'" for stream in streams) or "NULL"


_LETTERS: Final = for_each_schema("SELECT '{schema}' AS schema, * FROM {schema}.dead_letters")
_LETTERS_OF_USER: Final = f"""
    SELECT * FROM ({_LETTERS}) AS d
    WHERE :id IN ({owners_of("d.correlation_id")})
       OR (d.correlation_id IS NULL AND :id IN ({owners_of_message("d.message_id")}))
"""  # noqa: S608 - as above
_LETTER: Final = """d.schema, d.consumer, d.subject, d.reason, d.error, d.deliveries, d.dead_at, d.replay_requested_at,
               d.replay_failures, d.replayed_at, d.discarded_at, d.discarded_by, d.discard_reason, d.message_id"""
_RETRIES: Final = for_each_schema("SELECT '{schema}' AS schema, * FROM {schema}.delivery_attempts")
_UUID: Final = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"

SECTION_QUERIES: Final = (
    SectionQuery(
        "Request (gateway)",
        """
        SELECT generation_id, user_id, idempotency_key, created_at, verdict, required_credits, available_credits
        FROM gateway.generation_requests WHERE {where} ORDER BY created_at DESC
        """,
        _OF_ORDER,
    ),
    SectionQuery(
        "Generation as the user is shown it (gateway)",
        """
        SELECT status, version, price_credits, attempt_number, failure_code, failure_detail, late, captured_credits,
               released_credits, object_key, completed_at, deleted_at, updated_at
        FROM gateway.generations WHERE {where}
        """,
        _OF_GENERATION,
    ),
    SectionQuery(
        "Archived timeline (gateway)",
        """
        SELECT timestamptz 'epoch' + CAST(entry ->> 1 AS bigint) * interval '1 microsecond' AS occurred_at,
               entry ->> 2 AS name, entry -> 3 AS data, entry ->> 0 AS sequence, archive_id
        FROM gateway.archived_timelines CROSS JOIN LATERAL jsonb_array_elements(entries) AS entry
        WHERE {where} ORDER BY occurred_at
        """,
        _OF_GENERATION,
    ),
    SectionQuery(
        "Variants of the order (gateway)",
        """
        SELECT variant_of AS order_id, variant_number, generation_id, status, price_credits, captured_credits,
               released_credits, deleted_at
        FROM gateway.generations WHERE variant_of = (SELECT variant_of FROM gateway.generations WHERE {where})
        ORDER BY variant_number
        """,
        _OF_GENERATION,
    ),
    SectionQuery(
        "Generation",
        """
        SELECT generation_id, user_id, model_id, kind, lane, status, version, price_credits, attempt_count, failures,
               failure_code, failure_detail, sought_code, sought_detail, late, asset_id, requested_at, expires_at,
               deadline_at, next_attempt_at, finished_at
        FROM generation.video_generations WHERE {where} ORDER BY requested_at DESC
        """,
        _OF_ORDER,
    ),
    SectionQuery(
        "Cancellation",
        "SELECT generation_id, user_id, requested_at FROM generation.cancellations WHERE {where}",
        _OF_GENERATION,
    ),
    SectionQuery(
        "Attempts",
        """
        SELECT attempt_number, status, endpoint_id, provider_job_id, prepared_at, submitted_at, started_at, ended_at,
               check_at, failure_code, failure_detail, gpu_type, gpu_assumed, worker_id, queue_ms, cold_start_ms,
               execution_ms, execution_assumed, cost_micro_usd, size_bytes, attempt_id
        FROM generation.attempts WHERE {where} ORDER BY attempt_number
        """,
        _OF_GENERATION,
    ),
    SectionQuery(
        "Reports of the provider, latest first",
        """
        SELECT c.received_at, c.source, a.attempt_number, c.processed_at, c.tries, c.outcome
        FROM generation.provider_callbacks AS c JOIN generation.attempts AS a USING (attempt_id)
        WHERE {where} ORDER BY c.received_at DESC
        """,
        _OF_GENERATION,
    ),
    SectionQuery(
        "Asset",
        """
        SELECT asset_id, role, attempt_number, object_key, poster_object_key, size_bytes, sha256, media, stored_at
        FROM storage.assets WHERE {where} ORDER BY stored_at
        """,
        _OF_GENERATION,
    ),
    SectionQuery(
        "Previews",
        """
        SELECT requested_at, ended_at, outcome, reason, tries, failures, due_at, thumbnails, animated_preview
        FROM storage.previews WHERE {where}
        """,
        # Their key is the asset's id.
        {
            "generation": """generation_id = :id AND asset_id IN (
                SELECT asset_id FROM storage.assets WHERE generation_id = :id
                UNION SELECT asset_id FROM generation.video_generations WHERE generation_id = :id
            )"""
        },
    ),
    SectionQuery(
        "Deletion",
        """
        SELECT requested_at, opened_at, deleted_at, tries, due_at FROM storage.deletions WHERE {where}
        """,
        _OF_GENERATION,
    ),
    SectionQuery(
        "Requests to storage, latest first",
        """
        SELECT subject, asked_at, answered_at, answer, tries, next_try_at
        FROM storage.verifications WHERE {where} ORDER BY asked_at DESC
        """,
        _OF_GENERATION,
    ),
    SectionQuery(
        "Uploads, latest first",
        """
        SELECT u.upload_id, u.content_type, u.size_bytes, u.created_at, s.verified_at
        FROM gateway.uploads AS u LEFT JOIN storage.uploads AS s USING (upload_id)
        WHERE {where} ORDER BY u.created_at DESC
        """,
        {"user": "u.user_id = :id"},
    ),
    SectionQuery(
        "Reservation",
        """
        SELECT generation_id, user_id, amount_credits, status, captured_credits, reserved_at, deadline_at, resolved_at,
               reservation_id
        FROM billing.reservations WHERE {where} ORDER BY reserved_at DESC
        """,
        _OF_ORDER,
    ),
    SectionQuery(
        "Refusal",
        """
        SELECT generation_id, user_id, code, required_credits, available_credits, refused_at
        FROM billing.refusals WHERE {where} ORDER BY refused_at DESC
        """,
        _OF_ORDER,
    ),
    SectionQuery(
        "Request for a payment (gateway)",
        """
        SELECT payment_id, user_id, idempotency_key, created_at, refusal_code, refusal_detail
        FROM gateway.payment_requests WHERE {where} ORDER BY created_at DESC
        """,
        _OF_PURCHASE,
    ),
    SectionQuery(
        "Payment as the user is shown it (gateway)",
        """
        SELECT payment_id, status, version, refunded_cents, detail, updated_at
        FROM gateway.payments WHERE {where} ORDER BY created_at DESC
        """,
        _OF_PURCHASE,
    ),
    SectionQuery(
        "Payment",
        """
        SELECT payment_id, user_id, provider, provider_reference, charge_reference, status, resolution, version,
               pack_id, price_cents, currency, credits, bonus_credits, refunded_cents, detail, created_at, expires_at,
               settled_at, next_look_at, looks
        FROM payments.payment_transactions WHERE {where} ORDER BY created_at DESC
        """,
        _OF_PURCHASE,
    ),
    SectionQuery(
        "Credits ordered for the payment",
        """
        SELECT payment_id, kind, reference, amount_credits, ordered_at, posted_at, movement_id
        FROM payments.credit_movements WHERE {where} ORDER BY ordered_at DESC
        """,
        _OF_PAYMENT,
    ),
    SectionQuery(
        "Refunds",
        """
        SELECT payment_id, amount_cents, state, actor, note, provider_reference, created_at, updated_at, next_try_at,
               tries, refund_id
        FROM payments.refunds WHERE {where} ORDER BY created_at DESC
        """,
        _OF_PAYMENT,
    ),
    SectionQuery(
        "Disputes",
        """
        SELECT payment_id, amount_cents, state, provider_reference, created_at, updated_at
        FROM payments.disputes WHERE {where} ORDER BY created_at DESC
        """,
        _OF_PAYMENT,
    ),
    SectionQuery(
        "Reviews",
        """
        SELECT payment_id, code, expected, found, opened_at, resolved_at, resolution, actor, note, review_id
        FROM payments.reviews WHERE {where} ORDER BY opened_at DESC
        """,
        _OF_PAYMENT,
        whole_records=True,
    ),
    SectionQuery(
        "Events of the provider, latest first",
        """
        SELECT received_at, event_type, source, reference, matched_at, event_id
        FROM payments.provider_events WHERE {where} ORDER BY received_at DESC
        """,
        {"payment": "payment_id = :id"},
    ),
    SectionQuery(
        "Sign-up (gateway)",
        "SELECT amount_credits, requested_at, grant_id FROM gateway.signups WHERE {where}",
        {"user": "user_id = :id"},
    ),
    SectionQuery(
        "Grants",
        """
        SELECT reason, amount_credits, remaining_credits, actor, payment_id, note, granted_at, expires_at, grant_id
        FROM billing.grants WHERE {where} ORDER BY granted_at DESC
        """,
        {"payment": "payment_id = :id", "user": f"{_THEIRS} AND grant_id = ANY(:orders)"},
    ),
    SectionQuery(
        "Clawbacks",
        """
        SELECT reason, taken_credits, receivable_credits, payment_id, note, clawed_back_at, clawback_id
        FROM billing.clawbacks WHERE {where} ORDER BY clawed_back_at DESC
        """,
        {"payment": "payment_id = :id", "user": f"{_THEIRS} AND payment_id = ANY(:orders)"},
    ),
    SectionQuery(
        "Postings (ledger), latest first",
        """
        SELECT posting_id, occurred_at, reason, account, amount_credits, line_number, user_id, generation_id,
               payment_id, transfer_id, note
        FROM billing.balance_ledger WHERE {where} ORDER BY posting_id DESC
        """,
        _OF_MONEY,
    ),
    SectionQuery(
        "Balance of the user (billing)",
        """
        SELECT user_id, available_credits, reserved_credits, receivable_credits, line_number
        FROM billing.users WHERE {where}
        """,
        _OWNER,
    ),
    SectionQuery(
        "Balance that the user is shown (gateway)",
        """
        SELECT user_id, available_credits, reserved_credits, receivable_credits, line_number, updated_at
        FROM gateway.balances WHERE {where}
        """,
        _OWNER,
    ),
    SectionQuery(
        "Receipts of the message (inboxes)",
        " UNION ALL ".join(
            f"""
            SELECT '{schema}' AS schema, consumer, received_at FROM {schema}.inbox_messages
            WHERE {{where}} AND message_id = :argument_id AND consumer IN ({_consumers(schema)})
            """  # noqa: S608 - as above
            for schema in SERVICES
        ),
        _FOR_ALL,
    ),
    SectionQuery(
        "Messages that wait to be published",
        for_each_schema(
            """
            SELECT '{schema}' AS schema, subject, created_at, message_id FROM {schema}.outbox_messages
            WHERE {where} AND published_at IS NULL AND correlation_id = ANY(:orders)
            """,
            " ORDER BY created_at",
        ),
        _FOR_ALL,
    ),
    SectionQuery(
        "Messages that were published and are not in the journal",
        for_each_schema(
            """
            SELECT '{schema}' AS schema, subject, created_at, published_at, published_sequence, message_id
            FROM {schema}.outbox_messages AS o
            WHERE {where} AND published_at IS NOT NULL AND correlation_id = ANY(:orders)
              -- OFFSET 0: message by message, not all of the journal beside all of the outbox.
              AND NOT EXISTS (SELECT FROM auditor.journal AS j WHERE j.message_id = o.message_id OFFSET 0)
            """,
            " ORDER BY published_at",
        ),
        _FOR_ALL,
    ),
    SectionQuery(
        "Messages that are tried again: failed or early",
        f"""
        SELECT a.schema, a.consumer, a.failures, a.deferrals, a.first_at, a.last_at, a.last_reason, m.subject,
               a.message_id
        FROM ({_RETRIES}) AS a
        LEFT JOIN (SELECT DISTINCT message_id, subject FROM ({MESSAGES}) AS message) AS m USING (message_id)
        WHERE {{where}} AND (m.message_id IS NOT NULL OR a.message_id = :argument_id)
        ORDER BY a.last_at DESC
        """,  # noqa: S608 - as above
        _OF_NO_USER,
        whole_records=True,
    ),
    SectionQuery(
        "Messages that are tried again: failed or early",
        f"""
        SELECT a.schema, a.consumer, a.failures, a.deferrals, a.first_at, a.last_at, a.last_reason,
               (SELECT min(subject) FROM ({message_of("a.message_id", "subject")}) AS message) AS subject, a.message_id
        FROM (SELECT * FROM ({_RETRIES}) AS every ORDER BY last_at DESC LIMIT :counted) AS a
        WHERE {{where}} AND (a.message_id = :argument_id OR :id IN ({owners_of_message("a.message_id")}))
        ORDER BY a.last_at DESC
        """,  # noqa: S608 - as above
        _OF_A_USER,
        whole_records=True,
    ),
    SectionQuery(
        "Dead letters",
        f"""
        SELECT {_LETTER}
        FROM ({_LETTERS}) AS d
        LEFT JOIN (SELECT DISTINCT message_id FROM ({MESSAGES}) AS message) AS m USING (message_id)
        WHERE {{where}} AND (
            d.correlation_id = ANY(:orders) OR d.message_id = :argument_id OR m.message_id IS NOT NULL
            OR (length(:key) >= {SHORTEST_MENTION} AND position(convert_to(:key, 'UTF8') IN d.payload) > 0)
        )
        ORDER BY d.dead_at DESC
        """,  # noqa: S608 - as above
        _OF_NO_USER,
        whole_records=True,
    ),
    SectionQuery(
        "Dead letters",
        f"""
        SELECT {_LETTER}
        FROM (
            {_LETTERS_OF_USER}
               OR d.message_id = :argument_id OR position(convert_to(:key, 'UTF8') IN d.payload) > 0
        ) AS d
        WHERE {{where}} ORDER BY d.dead_at DESC
        """,  # noqa: S608 - as above
        _OF_A_USER,
        whole_records=True,
    ),
    SectionQuery(
        "Findings",
        f"""
        SELECT code, severity, subject_key, expected, found, first_seen_at, last_seen_at, resolved_at
        FROM auditor.findings
        LEFT JOIN (SELECT CAST(part AS text) AS known FROM ({PARTS}) AS every) AS parts ON known = subject_key
        WHERE {{where}} AND (
            known IS NOT NULL OR subject_key = :argument
            OR (length(:key) >= {SHORTEST_MENTION}
                AND position(:key IN concat_ws(' ', subject_key, expected, found)) > 0)
        )
        ORDER BY resolved_at IS NOT NULL, first_seen_at DESC
        """,  # noqa: S608 - as above
        _OF_NO_USER,
        whole_records=True,
    ),
    SectionQuery(
        "Findings",
        f"""
        WITH letters AS MATERIALIZED (SELECT message_id FROM ({_LETTERS_OF_USER}) AS letter)
        SELECT code, severity, subject_key, expected, found, first_seen_at, last_seen_at, resolved_at
        FROM (
            SELECT *, CASE WHEN subject_key ~ '{_UUID}' THEN CAST(subject_key AS uuid) END AS part
            FROM auditor.findings ORDER BY resolved_at IS NOT NULL, first_seen_at DESC LIMIT :counted
        ) AS latest
        WHERE {{where}} AND (
            subject_key = :argument OR position(:key IN concat_ws(' ', subject_key, expected, found)) > 0
            OR part IN (SELECT message_id FROM letters)
            OR :id IN ({OWNERS_OF_PART})
        )
        ORDER BY resolved_at IS NOT NULL, first_seen_at DESC
        """,  # noqa: S608 - as above
        _OF_A_USER,
        whole_records=True,
    ),
)


def own_rows(column: IdColumn) -> str:
    """The rows that have the id itself, with all columns of their table."""
    parameter = ":argument_id" if column.kind == "uuid" else ":argument"
    return f"SELECT * FROM {column.table} WHERE {column.column} = {parameter}"  # noqa: S608 - constants
