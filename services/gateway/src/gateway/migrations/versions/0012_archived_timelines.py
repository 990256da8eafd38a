"""The timelines of old orders, one row each, and a function that moves them there.

Only adds: code from before shows an archived order without its timeline, and nothing else of it changes.
The service may read what is archived and not change it, and it may delete no entry but through the functions.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TABLES = (
    # What one step of the command took: which orders, and what they add up to.
    """
    CREATE TABLE gateway.timeline_archives (
        archive_id uuid PRIMARY KEY,
        archived_at timestamptz NOT NULL DEFAULT now(),
        older_than timestamptz NOT NULL,
        generation_ids uuid[] NOT NULL CHECK (cardinality(generation_ids) > 0),
        entry_count bigint NOT NULL,
        captured_credits bigint NOT NULL,
        content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32)
    )
    """,
    # An entry is [sequence, microseconds since 1970, name, what else its event carried].
    # What happens to an order after it was archived may be archived later, as another row.
    """
    CREATE TABLE gateway.archived_timelines (
        generation_id uuid NOT NULL,
        archive_id uuid NOT NULL REFERENCES gateway.timeline_archives,
        user_id uuid NOT NULL,
        last_sequence bigint NOT NULL,
        entries jsonb NOT NULL,
        content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
        PRIMARY KEY (generation_id, archive_id)
    )
    """,
)

ARCHIVE_TIMELINES = """
    CREATE FUNCTION gateway.archive_timelines(min_age_days integer, most_subjects integer, after_id uuid)
    RETURNS TABLE (last_id uuid, orders bigint, entries bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' SET timezone = 'UTC'
    AS $function$
    #variable_conflict use_column
    DECLARE
        cutoff timestamptz := now() - make_interval(days => min_age_days);
        subjects uuid[];
    BEGIN
        IF min_age_days < 30 THEN
            RAISE EXCEPTION 'messages may come again: entries stay for 30 days or more, not %', min_age_days;
        END IF;
        PERFORM pg_advisory_xact_lock(hashtextextended('gateway.archive_timelines', 0));
        SELECT array_agg(subject_id ORDER BY subject_id) INTO subjects FROM (
            SELECT DISTINCT subject_id FROM gateway.activity
            WHERE subject_id IS NOT NULL AND subject_id > after_id ORDER BY subject_id LIMIT most_subjects
        ) AS following;
        last_id := subjects[cardinality(subjects)];
        orders := 0;
        entries := 0;
        IF last_id IS NULL THEN
            RETURN NEXT;
            RETURN;
        END IF;
        WITH ended AS MATERIALIZED (
            SELECT generation_id, user_id, coalesce(captured_credits, 0) AS captured_credits
            FROM gateway.generations AS g
            WHERE generation_id = ANY(subjects) AND updated_at < cutoff
              AND status IN ('refused', 'completed', 'failed', 'cancelled')
              -- Wholly or not at all; and only what a row of the archive can say.
              AND NOT EXISTS (
                  SELECT FROM gateway.activity AS a WHERE a.subject_id = g.generation_id AND (
                      a.occurred_at >= cutoff
                      OR (a.user_id, a.event, a.data ->> 'generation_id', a.data ->> 'name')
                         IS DISTINCT FROM (g.user_id, 'generation.updated', g.generation_id::text, a.name)))
        ), moved AS (
            DELETE FROM gateway.activity AS a USING ended AS e WHERE a.subject_id = e.generation_id
            RETURNING e.generation_id, e.user_id, e.captured_credits, a.sequence, a.name, a.data, a.occurred_at
        ), timelines AS MATERIALIZED (
            SELECT generation_id, user_id, captured_credits, max(sequence) AS last_sequence, count(*) AS entry_count,
                   jsonb_agg(jsonb_build_array(sequence, (extract(epoch FROM occurred_at) * 1000000)::bigint, name,
                                               data - 'generation_id' - 'name') ORDER BY sequence) AS entries
            FROM moved GROUP BY generation_id, user_id, captured_credits
        ), hashed AS MATERIALIZED (
            SELECT *, sha256(convert_to(concat_ws(' ', generation_id, user_id, last_sequence, entries), 'UTF8'))
                       AS content_hash
            FROM timelines
        ), archive AS (
            INSERT INTO gateway.timeline_archives
                (archive_id, older_than, generation_ids, entry_count, captured_credits, content_hash)
            SELECT uuidv7(), cutoff, array_agg(generation_id ORDER BY generation_id), sum(entry_count),
                   sum(captured_credits), sha256(string_agg(content_hash, ''::bytea ORDER BY generation_id))
            FROM hashed HAVING count(*) > 0
            RETURNING archive_id, cardinality(generation_ids) AS orders, entry_count
        ), archived AS (
            INSERT INTO gateway.archived_timelines
                (generation_id, archive_id, user_id, last_sequence, entries, content_hash)
            SELECT generation_id, archive_id, user_id, last_sequence, entries, content_hash FROM hashed, archive
        )
        SELECT coalesce(sum(archive.orders), 0), coalesce(sum(archive.entry_count), 0) INTO orders, entries
        FROM archive;
        RETURN NEXT;
    END
    $function$
"""

# The statement has every balance for ever, and GET /v1/balance the newest: an old event of it serves nobody.
DROP_BALANCE_ENTRIES = """
    CREATE FUNCTION gateway.drop_balance_entries(
        min_age_days integer, most_rows integer, after_user uuid, after_sequence bigint)
    RETURNS TABLE (last_user uuid, last_sequence bigint, entries bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s'
    AS $function$
    #variable_conflict use_column
    BEGIN
        IF min_age_days < 30 THEN
            RAISE EXCEPTION 'messages may come again: entries stay for 30 days or more, not %', min_age_days;
        END IF;
        WITH following AS MATERIALIZED (
            SELECT user_id, sequence, subject_id IS NULL AND event = 'balance.updated'
                       AND occurred_at < now() - make_interval(days => min_age_days) AS is_old
            FROM gateway.activity WHERE (user_id, sequence) > (after_user, after_sequence)
            ORDER BY user_id, sequence LIMIT most_rows
        ), dropped AS (
            DELETE FROM gateway.activity AS a USING following AS f
            WHERE f.is_old AND a.user_id = f.user_id AND a.sequence = f.sequence
            RETURNING 1
        ), last AS (
            SELECT user_id, sequence FROM following ORDER BY user_id DESC, sequence DESC LIMIT 1
        )
        SELECT (SELECT user_id FROM last), (SELECT sequence FROM last), (SELECT count(*) FROM dropped)
        INTO last_user, last_sequence, entries;
        RETURN NEXT;
    END
    $function$
"""

GRANTS = (
    "GRANT SELECT ON gateway.timeline_archives, gateway.archived_timelines TO gateway",
    "REVOKE ALL ON FUNCTION gateway.archive_timelines(integer, integer, uuid) FROM PUBLIC",
    "REVOKE ALL ON FUNCTION gateway.drop_balance_entries(integer, integer, uuid, bigint) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION gateway.archive_timelines(integer, integer, uuid) TO gateway",
    "GRANT EXECUTE ON FUNCTION gateway.drop_balance_entries(integer, integer, uuid, bigint) TO gateway",
)


def upgrade() -> None:
    for statement in (*TABLES, ARCHIVE_TIMELINES, DROP_BALANCE_ENTRIES, *GRANTS):
        op.execute(statement)
