"""The postings of one order, payment, grant or clawback are found without reading the ledger.

Only adds indexes and a right: code from before runs on. An index of the ledger is built beside running services.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEXES = (
    ("postings_by_generation", "billing.balance_ledger (generation_id) WHERE generation_id IS NOT NULL"),
    ("postings_by_payment", "billing.balance_ledger (payment_id) WHERE payment_id IS NOT NULL"),
    ("postings_by_grant", "billing.balance_ledger (grant_id) WHERE grant_id IS NOT NULL"),
    ("postings_by_clawback", "billing.balance_ledger (clawback_id) WHERE clawback_id IS NOT NULL"),
    ("clawbacks_by_payment", "billing.clawbacks (payment_id)"),
)


def upgrade() -> None:
    # How far posting ids were given out: the auditor's watermark.
    op.execute("GRANT SELECT ON SEQUENCE billing.balance_ledger_posting_id_seq TO auditor")
    with op.get_context().autocommit_block():
        for name, definition in INDEXES:
            # A build that was interrupted leaves an index that nothing uses.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS billing.{name}")
            op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {definition}")
