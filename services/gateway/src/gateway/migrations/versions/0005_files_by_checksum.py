"""A delivered file is found by its checksum."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # A build that was interrupted leaves an index that nothing uses.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS gateway.generations_by_sha256")
        op.execute(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS generations_by_sha256 ON gateway.generations (sha256)"
            " WHERE sha256 IS NOT NULL"
        )
