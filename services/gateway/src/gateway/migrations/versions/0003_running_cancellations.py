"""Cancels of work that a worker has are counted, a generation once."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE gateway.running_cancellations (
            generation_id UUID NOT NULL,
            user_id UUID NOT NULL,
            cancelled_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (generation_id)
        )
    """)
    op.execute("CREATE INDEX running_cancellations_by_user ON gateway.running_cancellations (user_id, cancelled_at)")
    op.execute("GRANT SELECT, INSERT ON gateway.running_cancellations TO gateway")
