"""Whose file a question is about: users take turns at the decoders."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE storage.verifications ADD COLUMN user_id uuid")
    op.execute(
        """
        UPDATE storage.verifications SET user_id = CAST(CAST(convert_from(payload, 'UTF8') AS jsonb) ->> 'user_id' AS uuid)
        WHERE next_try_at IS NOT NULL
        """
    )
