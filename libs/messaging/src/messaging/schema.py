"""The tables of messaging that every service has in its own schema, as DDL for its first migration.

``outbox_messages`` and ``inbox_messages`` are partitioned by day so that expiry is the drop of a partition.

The inbox's day is taken from the message id itself (UUIDv7 starts with its time), never from the time of receipt: the
same message always meets the same partition, so the primary key dedupes exactly, however far apart two deliveries are.
Ids without a time go to the DEFAULT partition, which is also the safety net for days that have no partition yet.
"""

from typing import Final

OUTBOX_RETENTION_DAYS: Final = 8
"""Replay window (7 days, the streams' max_age) and one day of margin."""

REPLAY_WINDOW_DAYS: Final = 7

INBOX_RETENTION_DAYS: Final = 17
"""Counted from receipt: a message can be published again until its outbox row expires (8 days) and then lives in the
stream for max_age (7 days); two days of margin."""

DAYS_AHEAD: Final = 3
"""Partitions are made this many days before they are needed."""

_TABLES: Final = """
CREATE TABLE {schema}.outbox_messages (
    message_id uuid NOT NULL,
    subject text NOT NULL,
    stream text NOT NULL,
    payload bytea NOT NULL,
    correlation_id uuid NOT NULL,
    causation_id uuid,
    traceparent text,
    occurred_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    published_sequence bigint,
    PRIMARY KEY (message_id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX outbox_messages_unpublished ON {schema}.outbox_messages (message_id) WHERE published_at IS NULL;
CREATE INDEX outbox_messages_correlation ON {schema}.outbox_messages (correlation_id);
CREATE TABLE {schema}.outbox_messages_default PARTITION OF {schema}.outbox_messages DEFAULT;

CREATE TABLE {schema}.inbox_messages (
    consumer text NOT NULL,
    message_id uuid NOT NULL,
    message_day date NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, message_id, message_day)
) PARTITION BY RANGE (message_day);
CREATE TABLE {schema}.inbox_messages_default PARTITION OF {schema}.inbox_messages DEFAULT;

CREATE TABLE {schema}.dead_letters (
    consumer text NOT NULL,
    message_id uuid NOT NULL,
    subject text NOT NULL,
    stream text NOT NULL,
    payload bytea NOT NULL,
    headers jsonb NOT NULL,
    correlation_id uuid,
    reason text NOT NULL,
    error text NOT NULL,
    deliveries integer NOT NULL,
    dead_at timestamptz NOT NULL DEFAULT now(),
    replay_requested_at timestamptz,
    replay_failures integer NOT NULL DEFAULT 0,
    replayed_at timestamptz,
    discarded_at timestamptz,
    discarded_by text,
    discard_reason text,
    CONSTRAINT a_discard_has_an_actor_and_a_reason
        CHECK (num_nonnulls(discarded_at, discarded_by, discard_reason) IN (0, 3)),
    PRIMARY KEY (consumer, message_id)
);
CREATE INDEX dead_letters_replay ON {schema}.dead_letters (consumer, replay_requested_at)
    WHERE replay_requested_at IS NOT NULL AND replayed_at IS NULL;

CREATE TABLE {schema}.delivery_attempts (
    consumer text NOT NULL,
    message_id uuid NOT NULL,
    failures integer NOT NULL DEFAULT 0,
    deferrals integer NOT NULL DEFAULT 0,
    first_at timestamptz NOT NULL DEFAULT now(),
    last_at timestamptz NOT NULL DEFAULT now(),
    last_reason text NOT NULL,
    PRIMARY KEY (consumer, message_id)
);

CREATE TABLE {schema}.relay_positions (
    holder text NOT NULL,
    stream text NOT NULL,
    checkpoint_id uuid NOT NULL,
    sequence bigint NOT NULL,
    message_id uuid NOT NULL,
    stream_created_at timestamptz,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    verified_at timestamptz,
    PRIMARY KEY (holder, stream, checkpoint_id)
)
"""

_MAINTENANCE: Final = """
CREATE FUNCTION {schema}.maintain_message_partitions() RETURNS TABLE (created integer, dropped integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' SET timezone = 'UTC'
AS $function$
DECLARE
    kind text;
    day date;
    partition_name text;
    column_name text;
    in_use boolean;
BEGIN
    created := 0;
    dropped := 0;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('{schema}.maintain_message_partitions', 0)) THEN
        RETURN NEXT;
        RETURN;
    END IF;

    FOREACH kind IN ARRAY ARRAY['outbox_messages', 'inbox_messages'] LOOP
        column_name := CASE kind WHEN 'outbox_messages' THEN 'created_at' ELSE 'message_day' END;
        FOR ahead IN 0 .. {days_ahead} LOOP
            day := current_date + ahead;
            partition_name := kind || '_' || to_char(day, 'YYYYMMDD');
            CONTINUE WHEN to_regclass('{schema}.' || partition_name) IS NOT NULL;
            EXECUTE format('LOCK TABLE {schema}.%I IN ACCESS EXCLUSIVE MODE', kind);
            EXECUTE format('CREATE TABLE {schema}.%I (LIKE {schema}.%I INCLUDING DEFAULTS)', partition_name, kind);
            -- Rows that came before their partition did wait in DEFAULT: they move, or the attachment is refused.
            EXECUTE format(
                'WITH moved AS (DELETE FROM {schema}.%I WHERE %I >= %L AND %I < %L RETURNING *)'
                ' INSERT INTO {schema}.%I SELECT * FROM moved',
                kind || '_default', column_name, day, column_name, day + 1, partition_name);
            EXECUTE format('ALTER TABLE {schema}.%I ATTACH PARTITION {schema}.%I FOR VALUES FROM (%L) TO (%L)',
                kind, partition_name, day, day + 1);
            created := created + 1;
        END LOOP;

        FOR partition_name IN
            SELECT child.relname FROM pg_inherits
            JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
            WHERE pg_inherits.inhparent = ('{schema}.' || kind)::regclass AND child.relname ~ '_[0-9]{8}$'
              AND to_date(right(child.relname, 8), 'YYYYMMDD') < current_date
                - CASE kind WHEN 'outbox_messages' THEN {outbox_days} ELSE {inbox_days} END
        LOOP
            EXECUTE format('LOCK TABLE {schema}.%I IN ACCESS EXCLUSIVE MODE', kind);
            -- An unpublished message is never dropped; nor is the memory of one that was received late.
            IF kind = 'outbox_messages' THEN
                EXECUTE format('SELECT EXISTS (SELECT FROM {schema}.%I WHERE published_at IS NULL)', partition_name)
                    INTO in_use;
            ELSE
                EXECUTE format('SELECT EXISTS (SELECT FROM {schema}.%I WHERE received_at > $1)', partition_name)
                    INTO in_use USING now() - interval '{inbox_days} days';
            END IF;
            CONTINUE WHEN in_use;
            EXECUTE format('DROP TABLE {schema}.%I', partition_name);
            dropped := dropped + 1;
        END LOOP;
    END LOOP;

    DELETE FROM {schema}.outbox_messages_default
        WHERE published_at IS NOT NULL AND created_at < now() - interval '{outbox_days} days';
    DELETE FROM {schema}.inbox_messages_default WHERE received_at < now() - interval '{inbox_days} days';
    DELETE FROM {schema}.delivery_attempts WHERE last_at < now() - interval '{inbox_days} days';
    RETURN NEXT;
END
$function$
"""

_GRANTS: Final = """
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.outbox_messages TO {role};
GRANT SELECT, INSERT, DELETE ON {schema}.inbox_messages TO {role};
GRANT SELECT, INSERT, UPDATE ON {schema}.dead_letters TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.delivery_attempts TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.relay_positions TO {role};
REVOKE ALL ON FUNCTION {schema}.maintain_message_partitions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION {schema}.maintain_message_partitions() TO {role}
"""


def create_messaging_tables(schema: str) -> None:
    """Create the tables of messaging in ``schema`` and the partitions of the next days. For Alembic's ``upgrade``."""
    # Alembic is for migrations: a serving process, which only needs the numbers above, never loads it.
    from alembic import op

    for statement in table_statements(schema):
        op.execute(statement)


def grant_messaging_tables(schema: str, role: str | None = None) -> None:
    """Let ``role`` (by default the one named like the schema) do at run time what messaging needs, and no more."""
    from alembic import op

    for statement in grant_statements(schema, role or schema):
        op.execute(statement)


def table_statements(schema: str) -> list[str]:
    """The DDL, one statement each; to be run by the owner of the schema."""
    maintenance = _filled(_MAINTENANCE, schema)
    return [*_split(_filled(_TABLES, schema)), maintenance, f"SELECT {schema}.maintain_message_partitions()"]


def grant_statements(schema: str, role: str) -> list[str]:
    """The grants for the runtime role, one statement each."""
    return _split(_filled(_GRANTS, schema).replace("{role}", _name(role)))


def _filled(template: str, schema: str) -> str:
    return (
        template.replace("{schema}", _name(schema))
        .replace("{days_ahead}", str(DAYS_AHEAD))
        .replace("{outbox_days}", str(OUTBOX_RETENTION_DAYS))
        .replace("{inbox_days}", str(INBOX_RETENTION_DAYS))
    )


def _split(statements: str) -> list[str]:
    return [statement.strip() for statement in statements.split(";") if statement.strip()]


def _name(identifier: str) -> str:
    if not identifier.isidentifier():
        raise ValueError(f"not a plain SQL name: {identifier!r}")
    return identifier
