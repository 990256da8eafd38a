"""Each provider's due payments are claimed apart."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX payments_due_by_provider ON payments.payment_transactions (provider, next_look_at)"
        " WHERE next_look_at IS NOT NULL"
    )
    op.execute("DROP INDEX payments.payments_due")
