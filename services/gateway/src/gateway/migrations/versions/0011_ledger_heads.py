"""The heads of the ledger that billing published, under a role that is not billing's.

Only adds a table. The service may add to it and not change it: a head is not taken back.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE gateway.ledger_heads (
            tree_size bigint PRIMARY KEY,
            root_hash bytea NOT NULL CHECK (octet_length(root_hash) = 32),
            published_at timestamptz NOT NULL
        )
        """
    )
    op.execute("GRANT SELECT, INSERT ON gateway.ledger_heads TO gateway")
