"""The payments of a user are found without reading all payments: for the operator who looks at one user."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # A build that was interrupted leaves an index that nothing uses.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS payments.payments_by_user")
        op.execute(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS payments_by_user ON payments.payment_transactions (user_id)"
        )
