"""Users who were credited for signing up, each once.

Only adds a table: code from before credits nobody.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE gateway.signups (
            user_id uuid PRIMARY KEY,
            grant_id uuid NOT NULL CONSTRAINT one_grant_per_signup UNIQUE,
            amount_credits bigint NOT NULL CONSTRAINT a_signup_is_worth_something CHECK (amount_credits > 0),
            requested_at timestamptz NOT NULL DEFAULT now()
        )
    """)
    op.execute("CREATE INDEX signups_by_time ON gateway.signups (requested_at)")
    op.execute("GRANT SELECT, INSERT ON gateway.signups TO gateway")
