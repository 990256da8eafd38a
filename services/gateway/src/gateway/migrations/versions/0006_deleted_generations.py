"""Generations that their users deleted leave the lists; every list is read from an index, however it is filtered."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

FILTERS = ("", "status", "model_id", "kind")


def upgrade() -> None:
    op.execute("ALTER TABLE gateway.generations ADD COLUMN IF NOT EXISTS deleted_at timestamptz")
    op.execute("ALTER TABLE gateway.generations ADD COLUMN IF NOT EXISTS charged_credits bigint")
    with op.get_context().autocommit_block():
        for name in FILTERS:
            index = "generations_listed" + (f"_by_{name}" if name else "")
            columns = ", ".join(["user_id", *([name] if name else []), "requested_at DESC", "generation_id DESC"])
            # A build that was interrupted leaves an index that nothing uses.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS gateway.{index}")
            op.execute(
                f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {index} ON gateway.generations ({columns})"
                " WHERE deleted_at IS NULL"
            )
