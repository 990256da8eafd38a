"""An attempt says when its submission was about to be sent. Without that, nothing was sent.

An attempt that the code before this revision has prepared, or prepares beside newer code, counts as sent: that is the
default. Newer code writes NULL itself.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATEMENTS = ("ALTER TABLE generation.attempts ADD COLUMN sending_at timestamptz DEFAULT now()",)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the column is harmless to the code before it: roll back the code alone")
