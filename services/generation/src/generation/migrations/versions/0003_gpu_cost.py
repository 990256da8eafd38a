"""What an attempt took of a worker and cost, the plan of each order, and the health of the endpoints.

Nothing is removed, and no row is rewritten: the columns are nullable, and the code before this revision goes on
running beside it.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    ALTER TABLE generation.attempts
        ADD COLUMN worker_id text,
        ADD COLUMN gpu_type text,
        ADD COLUMN gpu_assumed boolean,
        ADD COLUMN queue_ms bigint,
        ADD COLUMN cold_start_ms bigint,
        ADD COLUMN execution_assumed boolean,
        ADD COLUMN cost_micro_usd bigint
    """,
    """
    ALTER TABLE generation.video_generations
        ADD COLUMN tier text,
        ADD COLUMN planned_gpu text,
        ADD COLUMN planned_cost_micro_usd bigint
    """,
    """
    CREATE TABLE generation.endpoint_health (
        endpoint text PRIMARY KEY,
        due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        measured_at timestamptz,
        workers jsonb,
        jobs jsonb,
        max_workers integer,
        keep_alive_at timestamptz
    )
    """,
    "GRANT SELECT, INSERT, UPDATE ON generation.endpoint_health TO generation",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the columns are harmless to the code before them: roll back the code alone")
