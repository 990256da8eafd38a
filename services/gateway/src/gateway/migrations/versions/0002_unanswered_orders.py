"""Orders that billing has not answered are found by their deadline."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # A build that was interrupted leaves an index that nothing uses.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS gateway.generations_unanswered")
        op.execute(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS generations_unanswered ON gateway.generations (expires_at)"
            " WHERE status = 'requested'"
        )
