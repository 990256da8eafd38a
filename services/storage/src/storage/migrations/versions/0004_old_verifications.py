"""A function that drops verifications which were answered long ago.

Only adds: code from before runs on, and does not need what is dropped.
The service may delete no verification but through the function.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

DROP_VERIFICATIONS = """
    CREATE FUNCTION storage.drop_verifications(min_age_days integer, most_rows integer, after_id uuid)
    RETURNS TABLE (last_id uuid, dropped bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s'
    AS $function$
    #variable_conflict use_column
    BEGIN
        IF min_age_days < 30 THEN
            RAISE EXCEPTION 'messages may come again: verifications stay for 30 days or more, not %', min_age_days;
        END IF;
        WITH following AS MATERIALIZED (
            SELECT message_id FROM storage.verifications WHERE message_id > after_id
            ORDER BY message_id LIMIT most_rows
        ), old AS (
            DELETE FROM storage.verifications AS v USING following AS f
            WHERE v.message_id = f.message_id AND v.answered_at < now() - make_interval(days => min_age_days)
            RETURNING 1
        )
        SELECT (SELECT message_id FROM following ORDER BY message_id DESC LIMIT 1), (SELECT count(*) FROM old)
        INTO last_id, dropped;
        RETURN NEXT;
    END
    $function$
"""

GRANTS = (
    "REVOKE ALL ON FUNCTION storage.drop_verifications(integer, integer, uuid) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION storage.drop_verifications(integer, integer, uuid) TO storage",
)


def upgrade() -> None:
    for statement in (DROP_VERIFICATIONS, *GRANTS):
        op.execute(statement)
