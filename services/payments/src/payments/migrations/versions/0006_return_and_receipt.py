"""Where the buyer goes back to, and where the provider shows the receipt.

Only adds columns that may be null: code from before knows nothing of them and runs on.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE payments.payment_transactions ADD COLUMN return_url TEXT, ADD COLUMN receipt_url TEXT")
