"""The journal of every message, the findings, the ends of billing's chain that were seen, and messaging's tables."""

from alembic import op

from messaging.schema import create_messaging_tables, grant_messaging_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    # Partitioned by day through the id itself: a UUIDv7 begins with its time, so the id alone is the primary key. Ids
    # without a time, and days without a partition, go to DEFAULT.
    """
    CREATE TABLE auditor.journal (
        message_id uuid PRIMARY KEY,
        subject text NOT NULL,
        stream text NOT NULL,
        producer text NOT NULL,
        is_foreign boolean NOT NULL DEFAULT false,
        correlation_id uuid NOT NULL,
        causation_id uuid,
        user_id uuid,
        traceparent text,
        occurred_at timestamptz NOT NULL,
        received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        payload jsonb NOT NULL
    ) PARTITION BY RANGE (message_id)
    """,
    "CREATE INDEX journal_correlation ON auditor.journal (correlation_id)",
    "CREATE INDEX journal_user ON auditor.journal (user_id, occurred_at)",
    "CREATE INDEX journal_foreign ON auditor.journal (message_id) WHERE is_foreign",
    "CREATE TABLE auditor.journal_default PARTITION OF auditor.journal DEFAULT",
    """
    CREATE TABLE auditor.findings (
        finding_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        code text NOT NULL,
        severity text NOT NULL CHECK (severity IN ('critical', 'warning')),
        subject_key text NOT NULL,
        expected text NOT NULL,
        found text NOT NULL,
        first_seen_at timestamptz NOT NULL DEFAULT now(),
        last_seen_at timestamptz NOT NULL DEFAULT now(),
        resolved_at timestamptz
    )
    """,
    "CREATE UNIQUE INDEX one_open_finding ON auditor.findings (code, subject_key) WHERE resolved_at IS NULL",
    "CREATE INDEX findings_by_subject ON auditor.findings (subject_key)",
    """
    CREATE TABLE auditor.ledger_heads (
        seal_number bigint PRIMARY KEY,
        seal_hash bytea NOT NULL,
        seen_at timestamptz NOT NULL DEFAULT now()
    )
    """,
)

FUNCTIONS = (
    """
    CREATE FUNCTION auditor.first_id_of(day date) RETURNS uuid
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
        SELECT rpad(lpad(to_hex((extract(epoch FROM day::timestamp) * 1000)::bigint), 12, '0'), 32, '0')::uuid
    $$
    """,
    """
    CREATE FUNCTION auditor.maintain_journal_partitions(retention_days integer)
    RETURNS TABLE (created integer, dropped integer)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' SET timezone = 'UTC'
    AS $function$
    DECLARE
        day date;
        partition_name text;
    BEGIN
        IF retention_days < 8 THEN
            RAISE EXCEPTION 'the journal must outlive the streams: keep it for 8 days or more, not %', retention_days;
        END IF;
        created := 0;
        dropped := 0;
        IF NOT pg_try_advisory_xact_lock(hashtextextended('auditor.maintain_journal_partitions', 0)) THEN
            RETURN NEXT;
            RETURN;
        END IF;
        FOR ahead IN -1 .. 3 LOOP
            day := current_date + ahead;
            partition_name := 'journal_' || to_char(day, 'YYYYMMDD');
            CONTINUE WHEN to_regclass('auditor.' || partition_name) IS NOT NULL;
            LOCK TABLE auditor.journal IN ACCESS EXCLUSIVE MODE;
            EXECUTE format('CREATE TABLE auditor.%I (LIKE auditor.journal INCLUDING DEFAULTS)', partition_name);
            -- What came before its partition waits in DEFAULT, and the attachment is refused until it has moved.
            EXECUTE format(
                'WITH moved AS (DELETE FROM auditor.journal_default WHERE message_id >= %L AND message_id < %L'
                ' RETURNING *) INSERT INTO auditor.%I SELECT * FROM moved',
                auditor.first_id_of(day), auditor.first_id_of(day + 1), partition_name);
            EXECUTE format('ALTER TABLE auditor.journal ATTACH PARTITION auditor.%I FOR VALUES FROM (%L) TO (%L)',
                partition_name, auditor.first_id_of(day), auditor.first_id_of(day + 1));
            created := created + 1;
        END LOOP;
        FOR partition_name IN
            SELECT child.relname FROM pg_inherits
            JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
            WHERE pg_inherits.inhparent = 'auditor.journal'::regclass AND child.relname ~ '_[0-9]{8}$'
              AND to_date(right(child.relname, 8), 'YYYYMMDD') < current_date - retention_days
        LOOP
            LOCK TABLE auditor.journal IN ACCESS EXCLUSIVE MODE;
            EXECUTE format('DROP TABLE auditor.%I', partition_name);
            dropped := dropped + 1;
        END LOOP;
        DELETE FROM auditor.journal_default WHERE received_at < now() - make_interval(days => retention_days);
        RETURN NEXT;
    END
    $function$
    """,
    "SELECT auditor.maintain_journal_partitions(90)",
)

# What was recorded stays as it was: the service may add to the journal and not change it.
GRANTS = (
    "GRANT SELECT, INSERT ON auditor.journal TO auditor",
    "GRANT SELECT, INSERT, UPDATE (expected, found, last_seen_at, resolved_at) ON auditor.findings TO auditor",
    "GRANT SELECT, INSERT ON auditor.ledger_heads TO auditor",
    "REVOKE ALL ON FUNCTION auditor.maintain_journal_partitions(integer) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION auditor.maintain_journal_partitions(integer) TO auditor",
)


def upgrade() -> None:
    for statement in (*TABLES, *FUNCTIONS, *GRANTS):
        op.execute(statement)
    create_messaging_tables("auditor")
    grant_messaging_tables("auditor")


def downgrade() -> None:
    raise NotImplementedError("what was recorded is not thrown away")
