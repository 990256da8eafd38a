"""Verifications of files, the assets of the library, and users' uploads."""

from alembic import op

from messaging.schema import create_messaging_tables, grant_messaging_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE storage.verifications (
        message_id uuid PRIMARY KEY,
        subject text NOT NULL,
        generation_id uuid NOT NULL,
        user_id uuid NOT NULL,
        payload bytea NOT NULL,
        traceparent text,
        tries integer NOT NULL DEFAULT 0,
        failed_files text[] NOT NULL DEFAULT '{}',
        next_try_at timestamptz,
        leased_until timestamptz,
        fence bigint NOT NULL DEFAULT 0,
        asked_at timestamptz NOT NULL DEFAULT now(),
        answered_at timestamptz,
        answer text,
        CONSTRAINT answered_or_due CHECK ((answered_at IS NULL) = (next_try_at IS NOT NULL))
    )
    """,
    "CREATE INDEX verifications_due ON storage.verifications (next_try_at) WHERE next_try_at IS NOT NULL",
    "CREATE INDEX verifications_by_generation ON storage.verifications (generation_id)",
    """
    CREATE TABLE storage.assets (
        asset_id uuid PRIMARY KEY,
        generation_id uuid NOT NULL,
        role text NOT NULL,
        user_id uuid NOT NULL,
        attempt_id uuid NOT NULL,
        attempt_number integer NOT NULL,
        object_key text NOT NULL UNIQUE,
        poster_object_key text NOT NULL,
        size_bytes bigint NOT NULL CONSTRAINT size_positive CHECK (size_bytes > 0),
        sha256 text NOT NULL,
        media jsonb NOT NULL,
        stored_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT one_asset_per_generation_and_role UNIQUE (generation_id, role)
    )
    """,
    """
    CREATE TABLE storage.uploads (
        upload_id uuid PRIMARY KEY,
        user_id uuid NOT NULL,
        object_key text NOT NULL,
        size_bytes bigint NOT NULL,
        sha256 text NOT NULL,
        media jsonb NOT NULL,
        verified_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "GRANT SELECT, INSERT, UPDATE ON storage.verifications, storage.uploads TO storage",
    # An asset is recorded once and never changed.
    "GRANT SELECT, INSERT ON storage.assets TO storage",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    create_messaging_tables("storage")
    grant_messaging_tables("storage")
