"""What is proven stays proven: how far, and the sums of what is.

Only adds tables and a column: code from before knows nothing of them and runs on. All of it may be deleted at any time:
then everything counts as unproven.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    # A moment, how far posting ids were given out then, and the transactions that ran then. When all of those have
    # ended, whatever began before that moment is visible.
    """
    CREATE TABLE auditor.proof_marks (
        mark_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        noted_at timestamptz NOT NULL,
        posting_id bigint NOT NULL,
        running text[] NOT NULL
    )
    """,
    """
    CREATE TABLE auditor.proof_watermark (
        only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
        noted_at timestamptz NOT NULL,
        posting_id bigint NOT NULL,
        message_id uuid NOT NULL,
        anchor_posting_id bigint,
        anchor_transfer_id uuid,
        CONSTRAINT an_anchor_is_whole CHECK ((anchor_posting_id IS NULL) = (anchor_transfer_id IS NULL))
    )
    """,
    """
    CREATE TABLE auditor.proof_passes (
        scope text PRIMARY KEY,
        next_id uuid,
        began_at timestamptz NOT NULL,
        is_sound boolean NOT NULL DEFAULT true,
        proven_at timestamptz
    )
    """,
    """
    CREATE TABLE auditor.proven_balances (
        user_id uuid PRIMARY KEY,
        line_number bigint NOT NULL,
        transfer_id uuid NOT NULL,
        available_credits numeric NOT NULL,
        reserved_credits numeric NOT NULL,
        receivable_credits numeric NOT NULL,
        proven_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "ALTER TABLE auditor.findings ADD COLUMN key text",
    """
    GRANT SELECT, INSERT, UPDATE, DELETE ON auditor.proof_marks, auditor.proof_watermark, auditor.proof_passes,
        auditor.proven_balances TO auditor
    """,
    "GRANT UPDATE (key) ON auditor.findings TO auditor",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("older code runs on this schema as it is")
