"""Bodies with a file are leased work. Nothing is removed: the code before this revision goes on running beside it."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    ALTER TABLE generation.provider_callbacks
        ADD COLUMN carries_file boolean NOT NULL DEFAULT false,
        ADD COLUMN leased_until timestamptz,
        ADD COLUMN fence bigint NOT NULL DEFAULT 0,
        ALTER COLUMN due_at DROP NOT NULL
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the columns are harmless to the code before them: roll back the code alone")
