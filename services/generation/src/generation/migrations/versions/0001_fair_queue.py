"""The orders, their attempts, the fair queue and the provider's callbacks."""

from alembic import op

from messaging.schema import create_messaging_tables, grant_messaging_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE generation.video_generations (
        generation_id uuid PRIMARY KEY,
        user_id uuid NOT NULL,
        model_id text NOT NULL,
        kind text NOT NULL CHECK (kind IN ('video', 'image')),
        endpoint text NOT NULL,
        lane text NOT NULL CHECK (lane IN ('free', 'standard', 'pro')),
        price_credits bigint NOT NULL CHECK (price_credits >= 0),
        parameters jsonb NOT NULL,
        uploads jsonb NOT NULL,
        input_object_keys jsonb,
        status text NOT NULL CHECK (status IN (
            'queued', 'dispatching', 'running', 'storing', 'completed', 'failed', 'cancelling', 'cancelled')),
        version integer NOT NULL CHECK (version >= 1),
        ready boolean NOT NULL CHECK (NOT ready OR (status = 'queued' AND inputs_ready AND sought_version IS NULL)),
        inputs_ready boolean NOT NULL,
        attempt_count integer NOT NULL CHECK (attempt_count >= 0),
        failures integer NOT NULL CHECK (failures >= 0),
        handed_over_number integer,
        requested_at timestamptz NOT NULL,
        enqueued_at timestamptz NOT NULL,
        next_attempt_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        deadline_at timestamptz NOT NULL,
        finished_at timestamptz,
        sought_version integer,
        sought_code text,
        sought_detail text,
        sought_retry boolean,
        failure_code text,
        failure_detail text,
        asset_id uuid,
        late boolean NOT NULL DEFAULT false,
        expected_width_pixels integer NOT NULL,
        expected_height_pixels integer NOT NULL,
        expected_duration_ms integer,
        max_size_bytes bigint NOT NULL,
        output_extension text NOT NULL,
        execution_timeout_seconds integer NOT NULL,
        traceparent text,
        CHECK ((status = 'completed') = (asset_id IS NOT NULL)),
        CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
    ) WITH (fillfactor = 80)
    """,
    # A queue table lives by its indexes: dead entries at their heads must go early.
    """
    ALTER TABLE generation.video_generations SET (
        autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05)
    """,
    """
    CREATE INDEX video_generations_ready ON generation.video_generations
        (endpoint, lane, user_id, enqueued_at, generation_id) WHERE ready
    """,
    """
    CREATE INDEX video_generations_backoff ON generation.video_generations (next_attempt_at)
        WHERE status = 'queued' AND NOT ready AND inputs_ready AND sought_version IS NULL
    """,
    """
    CREATE INDEX video_generations_deadline ON generation.video_generations (deadline_at)
        WHERE status NOT IN ('completed', 'failed', 'cancelled')
    """,
    "CREATE INDEX video_generations_user ON generation.video_generations (user_id, generation_id)",
    """
    CREATE TABLE generation.attempts (
        attempt_id uuid PRIMARY KEY,
        generation_id uuid NOT NULL REFERENCES generation.video_generations,
        attempt_number integer NOT NULL CHECK (attempt_number >= 1),
        endpoint text NOT NULL,
        endpoint_id text NOT NULL,
        status text NOT NULL CHECK (status IN (
            'prepared', 'unknown', 'submitted', 'running', 'succeeded', 'failed', 'lost', 'refused', 'cancelled')),
        fence_token bigint NOT NULL,
        prepared_at timestamptz NOT NULL,
        check_at timestamptz NOT NULL,
        last_checked_at timestamptz,
        provider_job_id text,
        submitted_at timestamptz,
        started_at timestamptz,
        ended_at timestamptz,
        cancel_due_at timestamptz,
        cancel_tries integer NOT NULL DEFAULT 0,
        failure_code text,
        failure_detail text,
        size_bytes bigint,
        sha256 text,
        content_type text,
        execution_ms bigint,
        report jsonb,
        CONSTRAINT attempts_number UNIQUE (generation_id, attempt_number),
        CHECK ((status IN ('prepared', 'unknown', 'submitted', 'running')) = (ended_at IS NULL))
    ) WITH (fillfactor = 80)
    """,
    """
    CREATE INDEX attempts_check ON generation.attempts (check_at)
        WHERE status IN ('prepared', 'unknown', 'submitted', 'running')
    """,
    """
    CREATE INDEX attempts_live ON generation.attempts (endpoint)
        WHERE status IN ('prepared', 'unknown', 'submitted', 'running')
    """,
    "CREATE INDEX attempts_cancel ON generation.attempts (cancel_due_at) WHERE cancel_due_at IS NOT NULL",
    "CREATE INDEX attempts_job ON generation.attempts (provider_job_id)",
    """
    CREATE TABLE generation.provider_callbacks (
        callback_id uuid PRIMARY KEY,
        attempt_id uuid NOT NULL,
        source text NOT NULL CHECK (source IN ('webhook', 'status')),
        body bytea NOT NULL,
        body_sha256 bytea NOT NULL,
        received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        tries integer NOT NULL DEFAULT 0,
        processed_at timestamptz,
        outcome text,
        CONSTRAINT provider_callbacks_once UNIQUE (attempt_id, body_sha256)
    )
    """,
    "CREATE INDEX provider_callbacks_due ON generation.provider_callbacks (due_at) WHERE processed_at IS NULL",
    """
    CREATE INDEX provider_callbacks_processed ON generation.provider_callbacks (processed_at)
        WHERE processed_at IS NOT NULL
    """,
    """
    CREATE TABLE generation.cancellations (
        generation_id uuid PRIMARY KEY,
        user_id uuid NOT NULL,
        requested_at timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE generation.endpoints (
        endpoint text PRIMARY KEY,
        endpoint_id text NOT NULL,
        max_active integer NOT NULL CHECK (max_active > 0),
        rate_per_second double precision NOT NULL CHECK (rate_per_second > 0),
        burst integer NOT NULL CHECK (burst > 0),
        tokens double precision NOT NULL,
        tokens_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        virtual_time bigint NOT NULL DEFAULT 0,
        consecutive_failures integer NOT NULL DEFAULT 0,
        held_until timestamptz
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE generation.lanes (
        endpoint text NOT NULL REFERENCES generation.endpoints,
        lane text NOT NULL,
        stride bigint NOT NULL CHECK (stride > 0),
        pass bigint NOT NULL DEFAULT 0,
        virtual_time bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (endpoint, lane)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE generation.user_queues (
        endpoint text NOT NULL,
        lane text NOT NULL,
        user_id uuid NOT NULL,
        ready_count integer NOT NULL CHECK (ready_count >= 0),
        active_count integer NOT NULL CHECK (active_count >= 0),
        active_cap integer NOT NULL CHECK (active_cap > 0),
        turn bigint NOT NULL DEFAULT 0,
        -- A column, and not only the index's condition: a longer queue then leaves the index alone (HOT).
        eligible boolean GENERATED ALWAYS AS (ready_count > 0 AND active_count < active_cap) STORED,
        PRIMARY KEY (endpoint, lane, user_id)
    ) WITH (fillfactor = 70)
    """,
    """
    CREATE INDEX user_queues_eligible ON generation.user_queues (endpoint, lane, turn, user_id)
        INCLUDE (active_cap, active_count) WHERE eligible
    """,
    """
    ALTER TABLE generation.user_queues SET (
        autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200)
    """,
    """
    GRANT SELECT, INSERT, UPDATE ON generation.video_generations, generation.attempts, generation.provider_callbacks,
        generation.cancellations, generation.endpoints, generation.lanes, generation.user_queues TO generation
    """,
    # Raw bodies are kept for a while as evidence; a tombstone is used up by the order it was waiting for.
    "GRANT DELETE ON generation.provider_callbacks, generation.cancellations TO generation",
)


def upgrade() -> None:
    create_messaging_tables("generation")
    for statement in _STATEMENTS:
        op.execute(statement)
    grant_messaging_tables("generation")


def downgrade() -> None:
    raise NotImplementedError("orders are never dropped: restore a backup instead")
