"""Requests made here, and read models of what happened elsewhere."""

from alembic import op

from messaging.schema import create_messaging_tables, grant_messaging_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE gateway.activity (
        user_id UUID NOT NULL,
        sequence BIGINT NOT NULL,
        message_id UUID NOT NULL,
        subject_id UUID,
        event TEXT NOT NULL,
        name TEXT NOT NULL,
        data JSONB NOT NULL,
        occurred_at timestamptz NOT NULL,
        PRIMARY KEY (user_id, sequence),
        UNIQUE (message_id)
    )
    """,
    """
    CREATE TABLE gateway.activity_heads (
        user_id UUID NOT NULL,
        sequence BIGINT NOT NULL,
        PRIMARY KEY (user_id)
    )
    """,
    """
    CREATE TABLE gateway.balances (
        user_id UUID NOT NULL,
        line_number BIGINT NOT NULL,
        available_credits BIGINT NOT NULL,
        reserved_credits BIGINT NOT NULL,
        receivable_credits BIGINT NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        PRIMARY KEY (user_id)
    )
    """,
    """
    CREATE TABLE gateway.generation_requests (
        generation_id UUID NOT NULL,
        user_id UUID NOT NULL,
        idempotency_key TEXT NOT NULL,
        request_hash BYTEA NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        verdict TEXT,
        required_credits BIGINT,
        available_credits BIGINT,
        PRIMARY KEY (generation_id),
        UNIQUE (user_id, idempotency_key)
    )
    """,
    """
    CREATE TABLE gateway.generations (
        generation_id UUID NOT NULL,
        user_id UUID NOT NULL,
        version INTEGER DEFAULT '0' NOT NULL,
        status TEXT NOT NULL,
        model_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        parameters JSONB NOT NULL,
        price_credits BIGINT NOT NULL,
        lane TEXT NOT NULL,
        attempt_number INTEGER,
        failure_code TEXT,
        failure_detail TEXT,
        late BOOLEAN DEFAULT false NOT NULL,
        captured_credits BIGINT,
        released_credits BIGINT,
        object_key TEXT,
        poster_object_key TEXT,
        size_bytes BIGINT,
        sha256 TEXT,
        media JSONB,
        requested_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        completed_at timestamptz,
        updated_at timestamptz DEFAULT now() NOT NULL,
        PRIMARY KEY (generation_id)
    )
    """,
    """
    CREATE TABLE gateway.ledger_lines (
        user_id UUID NOT NULL,
        line_number BIGINT NOT NULL,
        transfer_id UUID NOT NULL,
        reason TEXT NOT NULL,
        available_delta_credits BIGINT NOT NULL,
        reserved_delta_credits BIGINT NOT NULL,
        receivable_delta_credits BIGINT NOT NULL,
        available_after_credits BIGINT NOT NULL,
        reserved_after_credits BIGINT NOT NULL,
        receivable_after_credits BIGINT NOT NULL,
        generation_id UUID,
        payment_id UUID,
        note TEXT,
        occurred_at timestamptz NOT NULL,
        PRIMARY KEY (user_id, line_number)
    )
    """,
    """
    CREATE TABLE gateway.payment_requests (
        payment_id UUID NOT NULL,
        user_id UUID NOT NULL,
        idempotency_key TEXT NOT NULL,
        request_hash BYTEA NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        refusal_code TEXT,
        refusal_detail TEXT,
        PRIMARY KEY (payment_id),
        UNIQUE (user_id, idempotency_key)
    )
    """,
    """
    CREATE TABLE gateway.payments (
        payment_id UUID NOT NULL,
        user_id UUID NOT NULL,
        version INTEGER DEFAULT '0' NOT NULL,
        status TEXT NOT NULL,
        provider TEXT NOT NULL,
        pack_id TEXT NOT NULL,
        price_cents INTEGER NOT NULL,
        currency TEXT NOT NULL,
        credits INTEGER NOT NULL,
        bonus_credits INTEGER NOT NULL,
        refunded_cents INTEGER DEFAULT '0' NOT NULL,
        checkout_url TEXT,
        detail TEXT,
        created_at timestamptz NOT NULL,
        expires_at timestamptz,
        updated_at timestamptz DEFAULT now() NOT NULL,
        PRIMARY KEY (payment_id)
    )
    """,
    """
    CREATE TABLE gateway.uploads (
        upload_id UUID NOT NULL,
        user_id UUID NOT NULL,
        content_type TEXT NOT NULL,
        size_bytes BIGINT NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        PRIMARY KEY (upload_id)
    )
    """,
    """
    CREATE TABLE gateway.write_allowances (
        user_id UUID NOT NULL,
        tokens FLOAT NOT NULL,
        counted_at timestamptz NOT NULL,
        PRIMARY KEY (user_id)
    )
    """,
)

INDEXES = (
    "CREATE INDEX generations_by_user ON gateway.generations (user_id, requested_at DESC, generation_id DESC)",
    """
    CREATE INDEX generations_open ON gateway.generations (user_id)
        WHERE status NOT IN ('refused', 'completed', 'failed', 'cancelled')
    """,
    "CREATE INDEX uploads_by_user ON gateway.uploads (user_id, created_at)",
    "CREATE INDEX payments_by_user ON gateway.payments (user_id, created_at DESC, payment_id DESC)",
    "CREATE INDEX activity_by_subject ON gateway.activity (subject_id, sequence) WHERE subject_id IS NOT NULL",
)

GRANTS = (
    "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA gateway TO gateway",
    "REVOKE ALL ON gateway.alembic_version FROM gateway",
)


def upgrade() -> None:
    for statement in (*TABLES, *INDEXES, *GRANTS):
        op.execute(statement)
    create_messaging_tables("gateway")
    grant_messaging_tables("gateway")
