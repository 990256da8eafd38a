"""A payment shows where its receipt is."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE gateway.payments ADD COLUMN receipt_url TEXT")
