"""An order may be withdrawn before its credits are reserved."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE billing.refusals DROP CONSTRAINT IF EXISTS refusals_code_check, ADD CONSTRAINT refusals_code_check"
        " CHECK (code IN ('insufficient_credits', 'account_frozen', 'cancelled', 'expired')) NOT VALID"
    )
    # Apart, so that the rows are read without the lock of the change.
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE billing.refusals VALIDATE CONSTRAINT refusals_code_check")
