"""An order may have a time by which a worker has to begin."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE gateway.generations ADD COLUMN start_before_at timestamptz")
