"""What a user spent, ever, is not added up from the first line each time.

Only adds a table: code from before adds all lines up, as it did.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE gateway.settled_credits (
            user_id uuid PRIMARY KEY,
            through_line bigint NOT NULL,
            settled_credits bigint NOT NULL
        )
        """
    )
    op.execute("GRANT SELECT, INSERT, UPDATE ON gateway.settled_credits TO gateway")
