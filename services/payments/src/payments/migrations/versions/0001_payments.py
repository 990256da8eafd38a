"""Payments, their credits, and everything that their providers said."""

from alembic import op

from messaging.schema import create_messaging_tables, grant_messaging_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE payments.payment_transactions (
        payment_id UUID NOT NULL,
        user_id UUID NOT NULL,
        version INTEGER DEFAULT '1' NOT NULL,
        provider TEXT NOT NULL,
        provider_reference TEXT,
        charge_reference TEXT,
        status TEXT NOT NULL,
        resolution TEXT,
        pack_id TEXT NOT NULL,
        price_cents INTEGER NOT NULL,
        currency TEXT NOT NULL,
        credits INTEGER NOT NULL,
        bonus_credits INTEGER NOT NULL,
        refunded_cents INTEGER DEFAULT '0' NOT NULL,
        checkout_url TEXT,
        detail TEXT,
        created_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        settled_at timestamptz,
        next_look_at timestamptz,
        looks INTEGER DEFAULT '0' NOT NULL,
        hints BIGINT DEFAULT '0' NOT NULL,
        leased_until timestamptz,
        fence BIGINT DEFAULT '0' NOT NULL,
        PRIMARY KEY (payment_id),
        UNIQUE (provider, provider_reference),
        CONSTRAINT amounts_positive CHECK (price_cents > 0 AND credits > 0 AND bonus_credits >= 0)
    )
    """,
    """
    CREATE TABLE payments.provider_events (
        provider TEXT NOT NULL,
        event_id TEXT NOT NULL,
        event_type TEXT NOT NULL,
        reference TEXT,
        payment_id UUID,
        body BYTEA NOT NULL,
        source TEXT NOT NULL,
        received_at timestamptz DEFAULT now() NOT NULL,
        matched_at timestamptz,
        match_attempts INTEGER DEFAULT '0' NOT NULL,
        next_match_at timestamptz,
        PRIMARY KEY (provider, event_id)
    )
    """,
    """
    CREATE TABLE payments.reviews (
        review_id UUID NOT NULL,
        payment_id UUID,
        code TEXT NOT NULL,
        reference TEXT DEFAULT '' NOT NULL,
        expected TEXT NOT NULL,
        found TEXT NOT NULL,
        opened_at timestamptz DEFAULT now() NOT NULL,
        last_seen_at timestamptz DEFAULT now() NOT NULL,
        resolved_at timestamptz,
        resolution TEXT,
        actor TEXT,
        note TEXT,
        PRIMARY KEY (review_id),
        UNIQUE NULLS NOT DISTINCT (payment_id, code, reference)
    )
    """,
    """
    CREATE TABLE payments.sweeps (
        name TEXT NOT NULL,
        read_until timestamptz NOT NULL,
        finished_at timestamptz,
        leased_until timestamptz,
        PRIMARY KEY (name)
    )
    """,
    """
    CREATE TABLE payments.credit_movements (
        movement_id UUID NOT NULL,
        payment_id UUID NOT NULL,
        kind TEXT NOT NULL,
        reference TEXT DEFAULT '' NOT NULL,
        amount_credits INTEGER NOT NULL,
        ordered_at timestamptz DEFAULT now() NOT NULL,
        posted_at timestamptz,
        PRIMARY KEY (movement_id),
        UNIQUE (payment_id, kind, reference),
        CONSTRAINT amount_positive CHECK (amount_credits > 0),
        FOREIGN KEY(payment_id) REFERENCES payments.payment_transactions (payment_id)
    )
    """,
    """
    CREATE TABLE payments.disputes (
        provider TEXT NOT NULL,
        provider_reference TEXT NOT NULL,
        payment_id UUID NOT NULL,
        amount_cents INTEGER NOT NULL,
        state TEXT NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        PRIMARY KEY (provider, provider_reference),
        FOREIGN KEY(payment_id) REFERENCES payments.payment_transactions (payment_id)
    )
    """,
    """
    CREATE TABLE payments.refunds (
        refund_id UUID NOT NULL,
        payment_id UUID NOT NULL,
        provider TEXT NOT NULL,
        provider_reference TEXT,
        amount_cents INTEGER NOT NULL,
        state TEXT NOT NULL,
        actor TEXT NOT NULL,
        note TEXT,
        next_try_at timestamptz,
        tries INTEGER DEFAULT '0' NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        PRIMARY KEY (refund_id),
        UNIQUE (provider, provider_reference),
        CONSTRAINT amount_positive CHECK (amount_cents > 0),
        FOREIGN KEY(payment_id) REFERENCES payments.payment_transactions (payment_id)
    )
    """,
)

INDEXES = (
    """
    CREATE INDEX payments_due ON payments.payment_transactions (next_look_at) WHERE next_look_at IS NOT NULL
    """,
    """
    CREATE INDEX payments_open_by_user ON payments.payment_transactions (user_id)
        WHERE status IN ('created', 'pending')
    """,
    """
    CREATE INDEX payments_by_charge ON payments.payment_transactions (provider, charge_reference)
        WHERE charge_reference IS NOT NULL
    """,
    """
    CREATE INDEX payments_settled ON payments.payment_transactions (provider, created_at) WHERE settled_at IS NOT NULL
    """,
    "CREATE INDEX movements_unposted ON payments.credit_movements (ordered_at) WHERE posted_at IS NULL",
    "CREATE INDEX events_unmatched ON payments.provider_events (next_match_at) WHERE next_match_at IS NOT NULL",
    "CREATE INDEX events_by_payment ON payments.provider_events (payment_id)",
    "CREATE INDEX refunds_ordered ON payments.refunds (next_try_at) WHERE state = 'requested'",
    "CREATE INDEX refunds_by_payment ON payments.refunds (payment_id)",
    "CREATE INDEX disputes_by_payment ON payments.disputes (payment_id)",
    "CREATE INDEX reviews_open ON payments.reviews (opened_at) WHERE resolved_at IS NULL",
)

GRANTS = (
    # What was paid, moved and said is never deleted; a refund's mirror may give way to the order it belongs to.
    "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA payments TO payments",
    "GRANT DELETE ON payments.refunds TO payments",
    "REVOKE ALL ON payments.alembic_version FROM payments",
)


def upgrade() -> None:
    for statement in (*TABLES, *INDEXES, *GRANTS):
        op.execute(statement)
    create_messaging_tables("payments")
    grant_messaging_tables("payments")
