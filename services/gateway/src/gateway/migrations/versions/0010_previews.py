"""Small pictures of files, as storage announces them."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE gateway.generations ADD COLUMN IF NOT EXISTS previews jsonb")
