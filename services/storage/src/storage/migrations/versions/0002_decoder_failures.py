"""Count what a file did to the decoders apart from what the object store did to us."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE storage.verifications ADD COLUMN decoder_failures integer NOT NULL DEFAULT 0")
