"""Generations whose files their users deleted."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE storage.deletions (
        generation_id uuid PRIMARY KEY,
        user_id uuid NOT NULL,
        message_id uuid NOT NULL,
        traceparent text,
        requested_at timestamptz NOT NULL,
        opened_at timestamptz NOT NULL DEFAULT now(),
        tries integer NOT NULL DEFAULT 0,
        due_at timestamptz DEFAULT now(),
        leased_until timestamptz,
        fence bigint NOT NULL DEFAULT 0,
        deleted_at timestamptz,
        CONSTRAINT deleted_or_due CHECK ((deleted_at IS NULL) = (due_at IS NOT NULL))
    )
    """,
    "CREATE INDEX deletions_due ON storage.deletions (due_at) WHERE due_at IS NOT NULL",
    "GRANT SELECT, INSERT, UPDATE ON storage.deletions TO storage",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
