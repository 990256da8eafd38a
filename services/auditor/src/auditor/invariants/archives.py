"""What was archived is all there, unchanged, and agrees with what stayed, and nothing was dropped before its time."""

from typing import Final

from auditor.domain import Invariant

ARCHIVES: Final = (
    Invariant(
        code="archived_timelines_are_whole",
        severity="critical",
        meaning="The timeline of every archived order is in the archive, as it was taken there, and no other is",
        is_keyed=True,
        query="""
            SELECT taken.generation_id::text AS subject,
                   format('the timeline that archive %s took', a.archive_id) AS expected,
                   CASE WHEN t.generation_id IS NULL THEN 'none' ELSE 'a changed one' END AS found,
                   a.archive_id::text AS key
            FROM gateway.timeline_archives AS a
            CROSS JOIN LATERAL unnest(a.generation_ids) AS taken (generation_id)
            LEFT JOIN gateway.archived_timelines AS t
                ON t.generation_id = taken.generation_id AND t.archive_id = a.archive_id
            WHERE OF_ARCHIVE(a.archive_id)
              AND t.content_hash IS DISTINCT FROM sha256(convert_to(
                      concat_ws(' ', t.generation_id, t.user_id, t.last_sequence, t.entries), 'UTF8'))
            UNION ALL
            SELECT t.generation_id::text, format('no timeline: archive %s took none', t.archive_id),
                   format('%s entries', jsonb_array_length(t.entries)), t.generation_id::text
            FROM ROWS_OF_ORDERS(gateway.archived_timelines) AS t
            WHERE NOT EXISTS (SELECT FROM gateway.timeline_archives AS a
                              WHERE a.archive_id = t.archive_id AND t.generation_id = ANY(a.generation_ids)
                              ONE_BY_ONE())
        """,
    ),
    Invariant(
        code="archives_add_up",
        severity="critical",
        meaning="An archive holds as many entries as it took, and its orders cost what billing captured for them",
        query="""
            SELECT a.archive_id::text AS subject,
                   format('%s entries, %s credits captured, %s', a.entry_count, a.captured_credits,
                          encode(a.content_hash, 'hex')) AS expected,
                   format('%s entries, %s credits captured, %s', it.entries, it.captured, encode(it.hash, 'hex'))
                       AS found
            FROM gateway.timeline_archives AS a
            CROSS JOIN LATERAL (
                SELECT coalesce(sum(jsonb_array_length(t.entries)), 0) AS entries,
                       coalesce(sum(r.captured_credits), 0) AS captured,
                       sha256(coalesce(string_agg(t.content_hash, ''::bytea ORDER BY t.generation_id), ''::bytea))
                           AS hash
                FROM unnest(a.generation_ids) AS taken (generation_id)
                LEFT JOIN gateway.archived_timelines AS t
                    ON t.generation_id = taken.generation_id AND t.archive_id = a.archive_id
                LEFT JOIN billing.reservations AS r ON r.generation_id = taken.generation_id
            ) AS it
            WHERE OF_ARCHIVE(a.archive_id)
              AND (it.entries, it.captured, it.hash) <> (a.entry_count, a.captured_credits, a.content_hash)
        """,
    ),
    Invariant(
        code="archived_orders_have_ended",
        severity="critical",
        meaning="An archived order has ended, its timeline is its user's, and none of it is left outside",
        is_keyed=True,
        query="""
            SELECT t.generation_id::text AS subject,
                   format('an ended order of user %s, without entries through number %s outside', t.user_id,
                          t.last_sequence) AS expected,
                   CASE WHEN g.generation_id IS NULL THEN 'none'
                        ELSE format('one of user %s that is %s, with %s', g.user_id, g.status, outside.entries)
                   END AS found, t.key::text AS key
            FROM (
                SELECT one.generation_id, one.user_id, one.last_sequence, one.generation_id AS key
                FROM ROWS_OF_ORDERS(gateway.archived_timelines) AS one
                UNION ALL
                -- Those of a new archive, of whose orders nothing is new. Of all orders the part above has them.
                SELECT one.generation_id, one.user_id, one.last_sequence, a.archive_id
                FROM gateway.timeline_archives AS a
                CROSS JOIN LATERAL unnest(a.generation_ids) AS taken (generation_id)
                JOIN gateway.archived_timelines AS one
                    ON one.generation_id = taken.generation_id AND one.archive_id = a.archive_id
                WHERE OF_ARCHIVE(a.archive_id) AND NOT OF_ORDER(one.generation_id)
            ) AS t
            LEFT JOIN LATERAL (
                SELECT * FROM gateway.generations AS every WHERE every.generation_id = t.generation_id ONE_BY_ONE()
            ) AS g ON true
            CROSS JOIN LATERAL (
                SELECT count(*) AS entries FROM gateway.activity AS e
                WHERE e.subject_id = t.generation_id AND e.sequence <= t.last_sequence
            ) AS outside
            WHERE g.user_id IS DISTINCT FROM t.user_id OR outside.entries > 0
               OR g.status NOT IN ('refused', 'completed', 'failed', 'cancelled')
        """,
    ),
    Invariant(
        code="verifications_stay_a_month",
        severity="critical",
        meaning="For a month, a file in the library has the verification that stored it",
        # The asset and the answer are written in one transaction: nothing is tolerated.
        query="""
            SELECT a.generation_id::text AS subject,
                   format('an answered verification for user %s: asset %s was stored at %s', a.user_id, a.asset_id,
                          a.stored_at) AS expected,
                   coalesce((SELECT string_agg(format('one of user %s that was %s', v.user_id,
                                                      coalesce('answered at ' || v.answered_at, 'not answered')), ', ')
                             FROM storage.verifications AS v WHERE v.generation_id = a.generation_id), 'none') AS found
            FROM ROWS_OF_ORDERS(storage.assets) AS a
            WHERE a.role = 'output' AND a.stored_at > now() - interval '30 days'
              AND NOT EXISTS (SELECT FROM storage.verifications AS v
                              WHERE v.generation_id = a.generation_id AND v.user_id = a.user_id
                                AND v.answered_at IS NOT NULL ONE_BY_ONE())
        """,
    ),
)
