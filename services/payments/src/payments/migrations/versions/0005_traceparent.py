"""A payment remembers the trace of the request that began it.

Only adds a column that may be null: code from before knows nothing of it and runs on.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE payments.payment_transactions ADD COLUMN traceparent TEXT")


def downgrade() -> None:
    raise NotImplementedError("older code runs on this schema as it is")
