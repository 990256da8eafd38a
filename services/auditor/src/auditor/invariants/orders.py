"""The main job across services: request, reservation, generation, file, charge."""

from typing import Final

from auditor.domain import Invariant

ORDERS: Final = (
    Invariant(
        code="requests_get_a_verdict",
        severity="critical",
        meaning="Every request is reserved or refused by billing",
        query="""
            SELECT q.generation_id::text AS subject, 'a reservation or a refusal' AS expected,
                   format('none since %s', q.created_at) AS found
            FROM ROWS_OF_ORDERS(gateway.generation_requests) AS q
            WHERE q.created_at <= now() - make_interval(secs => :tolerance)
              AND NOT EXISTS (SELECT FROM ROWS_OF_ORDERS(billing.reservations) AS r
                              WHERE r.generation_id = q.generation_id)
              AND NOT EXISTS (SELECT FROM ROWS_OF_ORDERS(billing.refusals) AS f
                              WHERE f.generation_id = q.generation_id)
        """,
    ),
    Invariant(
        code="verdicts_have_their_request",
        severity="critical",
        meaning="What was reserved or refused was asked for by that user at that price, and is shown so",
        query="""
            SELECT o.generation_id::text AS subject,
                   format('asked for by user %s for %s credits', o.user_id, o.price_credits) AS expected,
                   format('request of user %s, shown to user %s for %s credits', q.user_id, g.user_id,
                          g.price_credits) AS found
            FROM (
                SELECT generation_id, user_id, amount_credits AS price_credits
                FROM ROWS_OF_ORDERS(billing.reservations) AS r
                UNION ALL
                SELECT generation_id, user_id, required_credits FROM ROWS_OF_ORDERS(billing.refusals) AS f
            ) AS o
            LEFT JOIN ROWS_OF_ORDERS(gateway.generation_requests) AS q USING (generation_id)
            LEFT JOIN ROWS_OF_ORDERS(gateway.generations) AS g USING (generation_id)
            WHERE (q.user_id, g.user_id, g.price_credits) IS DISTINCT FROM (o.user_id, o.user_id, o.price_credits)
        """,
    ),
    Invariant(
        code="reservations_have_their_generation",
        severity="critical",
        meaning="A reservation belongs to one generation, of the same user and price",
        query="""
            SELECT r.generation_id::text AS subject,
                   format('a generation of user %s for %s credits', r.user_id, r.amount_credits) AS expected,
                   CASE WHEN v.generation_id IS NULL THEN format('none since %s', r.reserved_at)
                        ELSE format('one of user %s for %s credits', v.user_id, v.price_credits) END AS found
            FROM ROWS_OF_ORDERS(billing.reservations) AS r
            LEFT JOIN ROWS_OF_ORDERS(generation.video_generations) AS v USING (generation_id)
            WHERE (v.generation_id IS NULL AND r.reserved_at <= now() - make_interval(secs => :tolerance))
               OR (v.generation_id IS NOT NULL
                   AND (v.user_id, v.price_credits) IS DISTINCT FROM (r.user_id, r.amount_credits))
        """,
    ),
    Invariant(
        code="generations_are_funded",
        severity="critical",
        meaning="Work exists only where credits were reserved for it",
        query="""
            SELECT v.generation_id::text AS subject, 'a reservation' AS expected,
                   format('none; the generation is %s', v.status) AS found
            FROM ROWS_OF_ORDERS(generation.video_generations) AS v
            WHERE NOT EXISTS (SELECT FROM ROWS_OF_ORDERS(billing.reservations) AS r
                              WHERE r.generation_id = v.generation_id)
        """,
    ),
    Invariant(
        code="captures_have_an_asset",
        severity="critical",
        meaning="Credits are captured only where a verified file is stored",
        query="""
            SELECT r.generation_id::text AS subject, 'a stored asset' AS expected,
                   format('none; %s credits were captured', r.captured_credits) AS found
            FROM ROWS_OF_ORDERS(billing.reservations) AS r
            WHERE r.status = 'captured'
              AND NOT EXISTS (SELECT FROM ROWS_OF_ORDERS(storage.assets) AS a WHERE a.generation_id = r.generation_id)
        """,
    ),
    Invariant(
        code="completed_generations_have_an_asset",
        severity="critical",
        meaning="A completed generation has the asset that it names",
        query="""
            SELECT v.generation_id::text AS subject, format('asset %s', v.asset_id) AS expected,
                   coalesce((SELECT format('asset %s', a.asset_id) FROM ROWS_OF_ORDERS(storage.assets) AS a
                             WHERE a.generation_id = v.generation_id LIMIT 1), 'none') AS found
            FROM ROWS_OF_ORDERS(generation.video_generations) AS v
            WHERE v.status = 'completed'
              AND NOT EXISTS (SELECT FROM ROWS_OF_ORDERS(storage.assets) AS a
                              WHERE a.generation_id = v.generation_id AND a.asset_id = v.asset_id)
        """,
    ),
    Invariant(
        code="stored_outputs_are_delivered",
        severity="critical",
        meaning="Every file in the library belongs to a generation that it completed, in time or late",
        query="""
            SELECT a.generation_id::text AS subject, 'a completed generation' AS expected,
                   format('%s; asset %s was stored at %s', coalesce(v.status, 'none'), a.asset_id, a.stored_at)
                       AS found
            FROM ROWS_OF_ORDERS(storage.assets) AS a
            LEFT JOIN ROWS_OF_ORDERS(generation.video_generations) AS v USING (generation_id)
            WHERE v.status IS DISTINCT FROM 'completed'
              AND a.stored_at <= now() - make_interval(secs => :tolerance)
        """,
    ),
    Invariant(
        code="one_asset_per_generation",
        severity="critical",
        meaning="A generation has one stored file of each role, and it belongs to the generation's user",
        query="""
            SELECT a.generation_id::text AS subject, format('one %s of user %s', a.role, v.user_id) AS expected,
                   format('%s, of user %s', count(*), string_agg(DISTINCT a.user_id::text, ', ')) AS found
            FROM ROWS_OF_ORDERS(storage.assets) AS a
            LEFT JOIN ROWS_OF_ORDERS(generation.video_generations) AS v USING (generation_id)
            GROUP BY a.generation_id, a.role, v.user_id
            HAVING count(*) > 1 OR bool_or(a.user_id IS DISTINCT FROM v.user_id)
        """,
    ),
    Invariant(
        code="outcomes_agree_with_reservations",
        severity="critical",
        meaning="Completed work is charged in full; failed, cancelled and late work is free; other work is reserved",
        query="""
            SELECT v.generation_id::text AS subject,
                   format('%s, %s credits captured, for a generation that is %s%s', wanted.status, wanted.captured,
                          v.status, CASE WHEN v.late THEN ' (late)' ELSE '' END) AS expected,
                   format('%s, %s credits captured', r.status, r.captured_credits) AS found
            FROM ROWS_OF_ORDERS(generation.video_generations) AS v
            JOIN ROWS_OF_ORDERS(billing.reservations) AS r USING (generation_id)
            CROSS JOIN LATERAL (
                SELECT CASE WHEN v.status = 'completed' AND NOT v.late THEN 'captured'
                            WHEN v.status IN ('completed', 'failed', 'cancelled') THEN 'released'
                            ELSE 'held' END AS status,
                       CASE WHEN v.status = 'completed' AND NOT v.late THEN v.price_credits ELSE 0 END AS captured
            ) AS wanted
            WHERE (r.status, r.captured_credits) <> (wanted.status, wanted.captured)
              AND (r.status <> 'held' OR v.finished_at <= now() - make_interval(secs => :tolerance))
        """,
    ),
    Invariant(
        code="refused_orders_are_not_made",
        severity="critical",
        meaning="An order that was refused is not worked on",
        query="""
            SELECT v.generation_id::text AS subject, format('no generation: it was refused (%s)', f.code) AS expected,
                   format('a generation that is %s', v.status) AS found
            FROM ROWS_OF_ORDERS(billing.refusals) AS f
            JOIN ROWS_OF_ORDERS(generation.video_generations) AS v USING (generation_id)
        """,
    ),
    Invariant(
        code="variants_are_alike",
        severity="critical",
        meaning="The variants of an order are as many as were ordered, 1, 2, 3 without a gap, of one user, model and"
        " price",
        # They are written in one transaction: nothing is tolerated.
        query="""
            SELECT g.generation_id::text AS subject,
                   format('variant 1 to %s of as many, %s for %s credits of user %s, like generation %s',
                          g.variant_count, f.model_id, f.price_credits, f.user_id, g.variant_of) AS expected,
                   format('variant %s, %s for %s credits of user %s, requested at %s, among variants %s',
                          g.variant_number, g.model_id, g.price_credits, g.user_id, g.requested_at, every.numbers)
                       AS found
            FROM ROWS_OF_ORDERS(gateway.generations) AS g
            LEFT JOIN LATERAL (
                SELECT * FROM gateway.generations AS one WHERE one.generation_id = g.variant_of ONE_BY_ONE()
            ) AS f ON true
            CROSS JOIN LATERAL (
                SELECT array_agg(s.variant_number ORDER BY s.variant_number) AS numbers
                FROM gateway.generations AS s WHERE s.variant_of = g.variant_of
            ) AS every
            -- Not by variant_of: its index, read for that alone, would be read whole.
            WHERE g.variant_count IS NOT NULL
              AND ((f.variant_of, f.variant_number, f.variant_count, f.user_id, f.model_id, f.price_credits,
                    f.requested_at)
                   IS DISTINCT FROM
                   (g.variant_of, 1, g.variant_count, g.user_id, g.model_id, g.price_credits, g.requested_at)
                   OR every.numbers IS DISTINCT FROM
                      (SELECT array_agg(number::smallint) FROM generate_series(1, g.variant_count) AS number))
        """,
    ),
    Invariant(
        code="variants_are_funded_together",
        severity="critical",
        meaning="The variants of an order are reserved together or refused together, apart from those that were"
        " withdrawn before",
        # Billing writes their verdicts in one transaction: nothing is tolerated.
        query="""
            SELECT g.generation_id::text AS subject,
                   format('one verdict for all variants of order %s that were not withdrawn', g.variant_of)
                       AS expected,
                   every.verdicts AS found
            FROM ROWS_OF_ORDERS(gateway.generations) AS g
            CROSS JOIN LATERAL (
                SELECT string_agg(format('variant %s is %s', s.variant_number, v.verdict), ', '
                                  ORDER BY s.variant_number) AS verdicts,
                       count(DISTINCT v.verdict)
                           FILTER (WHERE v.verdict NOT IN ('refused (cancelled)', 'refused (expired)')) AS different
                FROM gateway.generations AS s
                CROSS JOIN LATERAL (
                    SELECT coalesce((SELECT 'reserved' FROM billing.reservations AS r
                                     WHERE r.generation_id = s.generation_id LIMIT 1),
                                    (SELECT 'refused (' || f.code || ')' FROM billing.refusals AS f
                                     WHERE f.generation_id = s.generation_id LIMIT 1),
                                    'undecided') AS verdict ONE_BY_ONE()
                ) AS v
                WHERE s.variant_of = g.variant_of
            ) AS every
            WHERE g.variant_count IS NOT NULL AND every.different > 1
        """,
    ),
    Invariant(
        code="deletions_have_their_request",
        severity="critical",
        meaning="Files leave the library when their own user has deleted a generation that has ended, and only then",
        query="""
            SELECT d.generation_id::text AS subject,
                   format('an ended order that user %s deleted', d.user_id) AS expected,
                   coalesce(format('one of user %s that is %s, %s', g.user_id, g.status,
                                   coalesce('deleted at ' || g.deleted_at, 'not deleted')), 'none') AS found
            FROM ROWS_OF_ORDERS(storage.deletions) AS d
            LEFT JOIN ROWS_OF_ORDERS(gateway.generations) AS g USING (generation_id)
            WHERE g.deleted_at IS NULL OR g.user_id <> d.user_id
               OR g.status NOT IN ('refused', 'completed', 'failed', 'cancelled')
            UNION ALL
            SELECT g.generation_id::text, format('a deletion by storage, asked for at %s', g.deleted_at), 'none'
            FROM ROWS_OF_ORDERS(gateway.generations) AS g
            WHERE g.deleted_at <= now() - make_interval(secs => :tolerance)
              AND NOT EXISTS (SELECT FROM ROWS_OF_ORDERS(storage.deletions) AS d
                              WHERE d.generation_id = g.generation_id)
        """,
    ),
)
