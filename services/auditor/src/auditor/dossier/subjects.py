"""What a generation, a payment or a user is about, as SQL: the ids of its messages, and how many there are."""

from collections.abc import Mapping
from typing import Final

from auditor.dossier.identities import SubjectKind
from auditor.schemas import for_each_schema
from auditor.timeline import ENTRIES_OF_SUBJECT

ORDERS: Final[Mapping[SubjectKind, str]] = {
    "generation": "SELECT :id AS id, false AS is_cut",
    "payment": "SELECT :id AS id, false AS is_cut",
    "correlation": "SELECT :id AS id, false AS is_cut",
    "mention": "SELECT :id AS id, false AS is_cut WHERE :id IS NOT NULL",
    # What billing has of a user is found by the postings: an index by user would cost every order.
    "user": """
        WITH requested AS MATERIALIZED (
            SELECT generation_id AS id FROM gateway.generation_requests WHERE user_id = :id LIMIT :most + 1
        ), shown AS MATERIALIZED (
            SELECT generation_id AS id FROM gateway.generations WHERE user_id = :id
            ORDER BY requested_at DESC, generation_id DESC LIMIT :most + 1
        ), made AS MATERIALIZED (
            SELECT generation_id AS id FROM generation.video_generations WHERE user_id = :id
            ORDER BY generation_id DESC LIMIT :most + 1
        ), asked AS MATERIALIZED (
            SELECT payment_id AS id FROM gateway.payment_requests WHERE user_id = :id LIMIT :most + 1
        ), transacted AS MATERIALIZED (
            SELECT payment_id AS id FROM payments.payment_transactions WHERE user_id = :id LIMIT :most + 1
        ), paid AS MATERIALIZED (
            SELECT payment_id AS id FROM gateway.payments WHERE user_id = :id
            ORDER BY created_at DESC, payment_id DESC LIMIT :most + 1
        ), posted AS MATERIALIZED (
            SELECT generation_id, payment_id, grant_id FROM billing.balance_ledger WHERE user_id = :id
            ORDER BY line_number DESC LIMIT 8 * :most + 1
        ), cut AS (
            SELECT (SELECT count(*) FROM requested) > :most OR (SELECT count(*) FROM shown) > :most
                   OR (SELECT count(*) FROM made) > :most AS orders,
                   (SELECT count(*) FROM asked) > :most OR (SELECT count(*) FROM transacted) > :most
                   OR (SELECT count(*) FROM paid) > :most AS payments,
                   (SELECT count(*) FROM posted) > 8 * :most AS postings
        )
        SELECT every.id, cut.orders OR cut.payments OR cut.postings AS is_cut FROM cut CROSS JOIN LATERAL (
            SELECT :id AS id
            -- What no index has by time is left out where there is much of it: what is shown has the newest.
            UNION SELECT id FROM requested WHERE NOT cut.orders
            UNION SELECT id FROM shown
            UNION SELECT id FROM made
            UNION SELECT id FROM asked WHERE NOT cut.payments
            UNION SELECT id FROM transacted WHERE NOT cut.payments
            UNION SELECT id FROM paid
            UNION SELECT cause.id FROM posted CROSS JOIN LATERAL (VALUES (generation_id), (payment_id), (grant_id))
                AS cause (id) WHERE cause.id IS NOT NULL
        ) AS every
    """,
}
"""The ids by which the messages of a subject are correlated: a user's are those of orders, payments and grants.

``is_cut``: there are more than ``:most`` of a kind, and these are the newest.
"""

HOPS: Final = f"SELECT count(*) FROM (SELECT FROM ({ENTRIES_OF_SUBJECT}) AS every LIMIT :limit) AS counted"  # noqa: S608
"""How many messages a timeline is made of, or ``:limit``."""

_SENT: Final = for_each_schema(
    "SELECT message_id, subject FROM {schema}.outbox_messages WHERE correlation_id = ANY(:orders)"
)
MESSAGES: Final = f"""
    {_SENT}
    UNION ALL SELECT message_id, subject FROM auditor.journal WHERE correlation_id = ANY(:orders) OR user_id = :id
"""  # noqa: S608 - schema names are constants of the contracts
"""The messages of a subject, from the outboxes and from the journal: either may lack one."""

_ORDERS: Final = "SELECT unnest(:orders)"
"""A set to join with: a list would be searched from its start for every row of a ledger."""

PARTS: Final = f"""
    SELECT unnest(:orders) AS part
    UNION SELECT message_id FROM ({MESSAGES}) AS message
    UNION SELECT message_id
        FROM ({for_each_schema("SELECT message_id, correlation_id FROM {schema}.dead_letters")}) AS letter
        WHERE correlation_id IN ({_ORDERS})
    UNION SELECT reservation_id FROM billing.reservations WHERE generation_id IN ({_ORDERS})
    UNION SELECT transfer_id FROM billing.balance_ledger WHERE generation_id IN ({_ORDERS})
    UNION SELECT transfer_id FROM billing.balance_ledger WHERE payment_id IN ({_ORDERS})
    UNION SELECT transfer_id FROM billing.balance_ledger WHERE user_id = :id
    UNION SELECT grant_id FROM billing.grants WHERE payment_id IN ({_ORDERS})
    UNION SELECT clawback_id FROM billing.clawbacks WHERE payment_id IN ({_ORDERS})
    UNION SELECT attempt_id FROM generation.attempts WHERE generation_id IN ({_ORDERS})
    UNION SELECT asset_id FROM generation.video_generations WHERE generation_id IN ({_ORDERS})
    UNION SELECT asset_id FROM storage.assets WHERE generation_id IN ({_ORDERS})
    UNION SELECT upload_id FROM gateway.uploads WHERE user_id = :id
    UNION SELECT movement_id FROM payments.credit_movements WHERE payment_id IN ({_ORDERS})
    UNION SELECT refund_id FROM payments.refunds WHERE payment_id IN ({_ORDERS})
    UNION SELECT review_id FROM payments.reviews WHERE payment_id IN ({_ORDERS})
"""  # noqa: S608 - as above
"""Every id of a subject that a finding may be about."""
