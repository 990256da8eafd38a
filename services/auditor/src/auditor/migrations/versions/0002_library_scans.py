"""Reading the library: which parts of it are due, and how far each reading has come.

Only adds a table: code from before knows nothing of it and runs on.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE auditor.library_scans (
        scan_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        kind text NOT NULL CHECK (kind IN ('assets', 'bucket')),
        after_id uuid UNIQUE,
        through_id uuid,
        position text,
        due_at timestamptz NOT NULL DEFAULT now(),
        leased_until timestamptz,
        fence bigint NOT NULL DEFAULT 0,
        tries integer NOT NULL DEFAULT 0,
        made_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        CONSTRAINT a_range_of_assets CHECK ((kind = 'assets') = (after_id IS NOT NULL AND through_id > after_id))
    )
    """,
    "CREATE UNIQUE INDEX one_listing ON auditor.library_scans (kind) WHERE kind = 'bucket'",
    "CREATE INDEX library_scans_due ON auditor.library_scans (kind, due_at)",
    "CREATE INDEX library_scans_end ON auditor.library_scans (through_id)",
    "INSERT INTO auditor.library_scans (kind) VALUES ('bucket')",
    "GRANT SELECT, INSERT, UPDATE ON auditor.library_scans TO auditor",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("older code runs on this schema as it is")
