"""Every kind of work at the providers is leased in the same way: a due time, a lease, a fence, a count of tries.

Only adds columns with defaults: code from before knows nothing of them and runs on.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    ALTER TABLE payments.provider_events
        ADD COLUMN leased_until timestamptz,
        ADD COLUMN fence BIGINT DEFAULT '0' NOT NULL
    """,
    """
    ALTER TABLE payments.refunds
        ADD COLUMN leased_until timestamptz,
        ADD COLUMN fence BIGINT DEFAULT '0' NOT NULL
    """,
    # A sweep that is known already is due at once: the first round after the upgrade finds out what was missed.
    """
    ALTER TABLE payments.sweeps
        ADD COLUMN due_at timestamptz DEFAULT now() NOT NULL,
        ADD COLUMN fence BIGINT DEFAULT '0' NOT NULL,
        ADD COLUMN tries INTEGER DEFAULT '0' NOT NULL
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("older code runs on this schema as it is")
