"""An order may have a time by which a worker has to begin; its planned seconds and measured times make estimates."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "ALTER TABLE generation.video_generations ADD COLUMN start_before_at timestamptz",
    "ALTER TABLE generation.video_generations ADD COLUMN planned_seconds double precision",
    """
    CREATE TABLE generation.measured_times (
        measure text NOT NULL,
        model_id text NOT NULL,
        lane text NOT NULL,
        recent double precision[] NOT NULL,
        PRIMARY KEY (measure, model_id, lane)
    )
    """,
    "GRANT SELECT, INSERT, UPDATE ON generation.measured_times TO generation",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("columns and table are harmless to the code before them: roll back the code alone")
