"""The ends of billing's chain of seals that the auditor has seen."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE auditor.ledger_heads (
        seal_number bigint PRIMARY KEY,
        seal_hash bytea NOT NULL,
        seen_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "GRANT SELECT, INSERT ON auditor.ledger_heads TO auditor",
    "REVOKE ALL ON FUNCTION auditor.maintain_journal_partitions(integer) FROM PUBLIC",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("what was recorded is not thrown away")
