"""A question may name several files: remember which of them brought a decoder down."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE storage.verifications ADD COLUMN failed_files text[] NOT NULL DEFAULT '{}'")
    op.execute("ALTER TABLE storage.verifications DROP COLUMN decoder_failures")
