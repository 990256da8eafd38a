"""Small pictures of outputs, made after the output is stored."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE storage.previews (
        asset_id uuid PRIMARY KEY,
        generation_id uuid NOT NULL,
        user_id uuid NOT NULL,
        traceparent text,
        requested_at timestamptz NOT NULL DEFAULT now(),
        tries integer NOT NULL DEFAULT 0,
        failures integer NOT NULL DEFAULT 0,
        due_at timestamptz DEFAULT now(),
        leased_until timestamptz,
        fence bigint NOT NULL DEFAULT 0,
        ended_at timestamptz,
        outcome text,
        reason text,
        thumbnails jsonb,
        animated_preview jsonb,
        CONSTRAINT ended_or_due CHECK ((ended_at IS NULL) = (due_at IS NOT NULL)),
        CONSTRAINT ended_with_an_outcome CHECK ((ended_at IS NULL) = (outcome IS NULL)),
        CONSTRAINT stored_has_thumbnails CHECK ((outcome IS NOT DISTINCT FROM 'stored') = (thumbnails IS NOT NULL))
    )
    """,
    "CREATE INDEX previews_due ON storage.previews (due_at) WHERE due_at IS NOT NULL",
    "GRANT SELECT, INSERT, UPDATE ON storage.previews TO storage",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
