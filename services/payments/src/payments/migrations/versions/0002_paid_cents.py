"""What arrived for a payment, which may be more or less than its price."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE payments.payment_transactions ADD COLUMN paid_cents BIGINT DEFAULT '0' NOT NULL")
    op.execute("UPDATE payments.payment_transactions SET paid_cents = price_cents WHERE settled_at IS NOT NULL")


def downgrade() -> None:
    raise NotImplementedError("what was paid is not forgotten")
