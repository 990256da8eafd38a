"""Conservation inside billing. No tolerance: these hold at every moment, in the middle of any load."""

from typing import Final

from auditor.domain import Invariant

LEDGER: Final = (
    Invariant(
        code="transfers_sum_to_zero",
        severity="critical",
        meaning="The postings of each transfer add up to zero, for one reason and one cause",
        query="""
            SELECT transfer_id::text AS subject, '0 credits' AS expected,
                   format('%s credits for %s in postings %s', total, reason,
                          (SELECT string_agg(posting_id::text, ', ' ORDER BY posting_id)
                           FROM billing.balance_ledger AS l WHERE l.transfer_id = broken.transfer_id)) AS found
            FROM (
                SELECT transfer_id, reason, sum(amount_credits) AS total
                FROM ROWS_OF_TRANSFERS(billing.balance_ledger) AS l
                GROUP BY transfer_id, reason, generation_id, payment_id, grant_id, clawback_id
                HAVING sum(amount_credits) <> 0
            ) AS broken
        """,
    ),
    Invariant(
        code="transfers_move_one_users_credits",
        severity="critical",
        meaning="A transfer moves the credits of one user, on one line of the statement",
        query="""
            SELECT transfer_id::text AS subject, 'one user and one line' AS expected,
                   format('users %s, lines %s', string_agg(DISTINCT user_id::text, ', '),
                          string_agg(DISTINCT line_number::text, ', ')) AS found
            FROM ROWS_OF_TRANSFERS(billing.balance_ledger) AS l
            WHERE user_id IS NOT NULL
            GROUP BY transfer_id
            HAVING min(user_id::text) <> max(user_id::text) OR min(line_number) <> max(line_number)
        """,
    ),
    Invariant(
        code="postings_go_where_their_reason_says",
        severity="critical",
        meaning="Each reason moves credits between its own accounts and in its own direction",
        query="""
            SELECT transfer_id::text AS subject, format('accounts and signs of a %s', reason) AS expected,
                   format('posting %s of %s credits on %s', posting_id, amount_credits, account) AS found
            FROM ROWS_OF_TRANSFERS(billing.balance_ledger) AS l
            WHERE NOT CASE
                WHEN reason = 'reserve'
                    THEN (account, sign(amount_credits)) IN (('user:available', -1), ('user:reserved', 1))
                WHEN reason = 'capture'
                    THEN (account, sign(amount_credits)) IN (('user:reserved', -1), ('platform:revenue', 1))
                WHEN reason = 'release'
                    THEN (account, sign(amount_credits)) IN (('user:reserved', -1), ('user:available', 1))
                WHEN reason = 'expiry'
                    THEN (account, sign(amount_credits)) IN (('user:available', -1), ('platform:expired', 1))
                WHEN reason = 'receivable_settled'
                    THEN (account, sign(amount_credits)) IN (('user:available', -1), ('user:receivable', 1))
                WHEN reason IN ('purchase', 'bonus', 'signup', 'goodwill')
                    THEN (account, sign(amount_credits)) IN (('user:available', 1), ('platform:issued', -1))
                WHEN reason IN ('dispute_won', 'refund_failed')
                    THEN (account, sign(amount_credits)) IN (('user:available', 1), ('platform:refunded', -1))
                WHEN reason IN ('refund', 'dispute')
                    THEN (account, sign(amount_credits)) IN (
                        ('user:available', -1), ('user:receivable', -1), ('platform:refunded', 1))
                ELSE false
            END
        """,
    ),
    Invariant(
        code="balances_equal_postings",
        severity="critical",
        meaning="What a user has available, reserved and owed is the sum of the user's postings",
        query="""
            WITH posted AS (
                SELECT user_id, sum(available) AS available, sum(reserved) AS reserved, sum(receivable) AS receivable
                FROM (
                    SELECT user_id, available_credits AS available, reserved_credits AS reserved,
                           receivable_credits AS receivable
                    FROM PROVEN_BALANCES() AS proven
                    UNION ALL
                    SELECT user_id,
                           coalesce(sum(amount_credits) FILTER (WHERE account = 'user:available'), 0),
                           coalesce(sum(amount_credits) FILTER (WHERE account = 'user:reserved'), 0),
                           coalesce(-sum(amount_credits) FILTER (WHERE account = 'user:receivable'), 0)
                    FROM LINES_OF_USERS(billing.balance_ledger) AS line
                    WHERE user_id IS NOT NULL
                    GROUP BY user_id
                ) AS part
                GROUP BY user_id
            )
            SELECT coalesce(u.user_id, p.user_id)::text AS subject,
                   format('available %s, reserved %s, receivable %s by the postings',
                          coalesce(p.available, 0), coalesce(p.reserved, 0), coalesce(p.receivable, 0)) AS expected,
                   format('available %s, reserved %s, receivable %s',
                          u.available_credits, u.reserved_credits, u.receivable_credits) AS found
            FROM (SELECT * FROM billing.users WHERE OF_USER(user_id)) AS u FULL JOIN posted AS p USING (user_id)
            WHERE (u.available_credits, u.reserved_credits, u.receivable_credits)
                  IS DISTINCT FROM (coalesce(p.available, 0), coalesce(p.reserved, 0), coalesce(p.receivable, 0))
        """,
    ),
    Invariant(
        code="nothing_is_negative",
        severity="critical",
        meaning="No balance, grant or reservation is below zero",
        is_keyed=True,
        query="""
            SELECT user_id::text AS subject, 'balances of 0 or more' AS expected,
                   format('available %s, reserved %s, receivable %s',
                          available_credits, reserved_credits, receivable_credits) AS found, user_id::text AS key
            FROM billing.users
            WHERE OF_USER(user_id) AND least(available_credits, reserved_credits, receivable_credits) < 0
            UNION ALL
            SELECT user_id::text, format('grant %s with 0 to %s credits left', grant_id, amount_credits),
                   format('%s left', remaining_credits), grant_id::text
            FROM billing.grants
            WHERE OF_MOVEMENT(grant_id) AND remaining_credits NOT BETWEEN 0 AND amount_credits
            UNION ALL
            SELECT generation_id::text, format('0 to %s credits captured', amount_credits),
                   format('%s captured', captured_credits), generation_id::text
            FROM ROWS_OF_ORDERS(billing.reservations) AS r
            WHERE amount_credits <= 0 OR captured_credits NOT BETWEEN 0 AND amount_credits
        """,
    ),
    Invariant(
        code="one_reservation_per_generation",
        severity="critical",
        meaning="A generation is paid for once",
        query="""
            SELECT generation_id::text AS subject, 'one reservation' AS expected,
                   format('%s: %s', count(*), string_agg(reservation_id::text, ', ')) AS found
            FROM ROWS_OF_ORDERS(billing.reservations) AS r
            GROUP BY generation_id
            HAVING count(*) > 1
        """,
    ),
    Invariant(
        code="one_resolution_per_reservation",
        severity="critical",
        meaning="A reservation ends once, as captured or as released, and says how it ended",
        query="""
            SELECT r.generation_id::text AS subject,
                   CASE WHEN e.resolutions > 1 THEN 'at most one resolution'
                        ELSE format('%s with %s of %s credits captured, as its resolution says',
                                    coalesce(e.status, 'held'), coalesce(e.captured, 0),
                                    coalesce(e.captured + e.released, r.amount_credits)) END AS expected,
                   format('%s with %s of %s credits captured, and %s resolution(s)', r.status, r.captured_credits,
                          r.amount_credits, e.resolutions) AS found
            FROM ROWS_OF_ORDERS(billing.reservations) AS r
            CROSS JOIN LATERAL (
                SELECT count(*) AS resolutions, min(status) AS status,
                       min(captured_credits) AS captured, min(released_credits) AS released
                FROM billing.reservation_resolutions AS one WHERE one.reservation_id = r.reservation_id
            ) AS e
            WHERE e.resolutions > 1
               OR (r.status, r.captured_credits, r.amount_credits) IS DISTINCT FROM
                  (coalesce(e.status, 'held'), coalesce(e.captured, 0),
                   coalesce(e.captured + e.released, r.amount_credits))
            UNION ALL
            SELECT e.reservation_id::text, 'a resolution of a reservation',
                   format('no reservation, and one that was %s', e.status)
            FROM billing.reservation_resolutions AS e
            WHERE OF_RESERVATION(e.reservation_id)
              AND NOT EXISTS (SELECT FROM ROWS_OF_RESERVATIONS(billing.reservations) AS r
                              WHERE r.reservation_id = e.reservation_id)
        """,
    ),
    Invariant(
        code="reservations_match_postings",
        severity="critical",
        meaning="What was reserved, captured and released for a generation was posted, and no more",
        query="""
            WITH posted AS (
                SELECT generation_id,
                       coalesce(sum(amount_credits) FILTER (WHERE reason = 'reserve'), 0) AS reserved,
                       coalesce(-sum(amount_credits) FILTER (WHERE reason = 'capture'), 0) AS captured,
                       coalesce(-sum(amount_credits) FILTER (WHERE reason = 'release'), 0) AS released
                FROM billing.balance_ledger
                WHERE OF_ORDER(generation_id) AND generation_id IS NOT NULL AND account = 'user:reserved'
                GROUP BY generation_id
            ), kept AS (
                SELECT generation_id, sum(amount_credits) AS reserved, sum(captured_credits) AS captured,
                       coalesce(sum(amount_credits - captured_credits) FILTER (WHERE status <> 'held'), 0) AS released
                FROM ROWS_OF_ORDERS(billing.reservations) AS r
                GROUP BY generation_id
            )
            SELECT coalesce(k.generation_id, p.generation_id)::text AS subject,
                   format('%s reserved, %s captured, %s released', coalesce(k.reserved, 0), coalesce(k.captured, 0),
                          coalesce(k.released, 0)) AS expected,
                   format('postings of %s, %s, %s', coalesce(p.reserved, 0), coalesce(p.captured, 0),
                          coalesce(p.released, 0)) AS found
            FROM kept AS k FULL JOIN posted AS p USING (generation_id)
            WHERE (k.reserved, k.captured, k.released) IS DISTINCT FROM (p.reserved, p.captured, p.released)
        """,
    ),
    Invariant(
        code="held_reservations_are_backed",
        severity="critical",
        meaning="A user's held reservations are exactly what is set aside for them",
        query="""
            SELECT coalesce(u.user_id, h.user_id)::text AS subject,
                   format('%s credits reserved, held for %s order(s)', coalesce(h.held, 0), coalesce(h.orders, 0))
                       AS expected,
                   format('%s credits reserved', u.reserved_credits) AS found
            FROM (SELECT * FROM billing.users WHERE OF_USER(user_id)) AS u
            FULL JOIN (
                SELECT user_id, sum(amount_credits) AS held, count(*) AS orders
                FROM billing.reservations WHERE OF_USER(user_id) AND status = 'held' GROUP BY user_id
            ) AS h USING (user_id)
            WHERE u.reserved_credits IS DISTINCT FROM coalesce(h.held, 0)
        """,
    ),
    Invariant(
        code="draws_make_up_their_reservation",
        severity="critical",
        meaning="What a reservation took out of grants is what it reserved",
        query="""
            SELECT r.generation_id::text AS subject,
                   format('%s credits drawn from grants', r.amount_credits) AS expected,
                   format('%s credits drawn', coalesce(d.drawn, 0)) AS found
            FROM ROWS_OF_ORDERS(billing.reservations) AS r
            CROSS JOIN LATERAL (
                SELECT sum(amount_credits) AS drawn
                FROM billing.reservation_grants AS one WHERE one.reservation_id = r.reservation_id
            ) AS d
            WHERE d.drawn IS DISTINCT FROM r.amount_credits
            UNION ALL
            SELECT d.reservation_id::text, 'no credits drawn: there is no such reservation',
                   format('%s credits drawn from grant %s', d.amount_credits, d.grant_id)
            FROM billing.reservation_grants AS d
            WHERE OF_RESERVATION(d.reservation_id)
              AND NOT EXISTS (SELECT FROM ROWS_OF_RESERVATIONS(billing.reservations) AS r
                              WHERE r.reservation_id = d.reservation_id)
        """,
    ),
    Invariant(
        code="grants_are_posted_once",
        severity="critical",
        meaning="A grant was posted once: the credits that it names, to its user, for its reason",
        query="""
            SELECT coalesce(g.grant_id, p.grant_id)::text AS subject,
                   format('%s of %s credits to user %s', g.reason, g.amount_credits, g.user_id) AS expected,
                   format('%s of %s credits to user %s', p.reason, coalesce(p.posted, 0), p.user_id) AS found
            FROM (SELECT * FROM billing.grants WHERE OF_MOVEMENT(grant_id)) AS g
            FULL JOIN (
                SELECT grant_id, payment_id, user_id, reason, sum(amount_credits) AS posted
                FROM billing.balance_ledger
                WHERE OF_MOVEMENT(grant_id) AND grant_id IS NOT NULL AND account = 'user:available'
                  AND reason NOT IN ('expiry', 'receivable_settled')
                GROUP BY grant_id, payment_id, user_id, reason
            ) AS p USING (grant_id)
            WHERE (g.reason, g.amount_credits, g.user_id, g.payment_id)
                  IS DISTINCT FROM (p.reason, p.posted, p.user_id, p.payment_id)
        """,
    ),
    Invariant(
        code="clawbacks_are_posted_once",
        severity="critical",
        meaning="A clawback was posted once: what it took and what it left owed, of its user, for its reason",
        query="""
            SELECT coalesce(c.clawback_id, p.clawback_id)::text AS subject,
                   format('%s of %s taken and %s owed by user %s', c.reason, c.taken_credits, c.receivable_credits,
                          c.user_id) AS expected,
                   format('%s of %s taken and %s owed by user %s', p.reason, coalesce(p.taken, 0),
                          coalesce(p.owed, 0), p.user_id) AS found
            FROM (SELECT * FROM billing.clawbacks WHERE OF_MOVEMENT(clawback_id)) AS c
            FULL JOIN (
                SELECT clawback_id, payment_id, user_id, reason,
                       coalesce(-sum(amount_credits) FILTER (WHERE account = 'user:available'), 0) AS taken,
                       coalesce(-sum(amount_credits) FILTER (WHERE account = 'user:receivable'), 0) AS owed
                FROM billing.balance_ledger
                WHERE OF_MOVEMENT(clawback_id) AND clawback_id IS NOT NULL AND user_id IS NOT NULL
                GROUP BY clawback_id, payment_id, user_id, reason
            ) AS p USING (clawback_id)
            WHERE (c.reason, c.taken_credits, c.receivable_credits, c.user_id, c.payment_id)
                  IS DISTINCT FROM (p.reason, p.taken, p.owed, p.user_id, p.payment_id)
        """,
    ),
    Invariant(
        code="grants_back_what_is_available",
        severity="critical",
        meaning="The remainders of a user's grants add up to the available credits",
        query="""
            SELECT coalesce(u.user_id, g.user_id)::text AS subject,
                   format('%s credits available, left in grants', coalesce(g.left_over, 0)) AS expected,
                   format('%s credits available', u.available_credits) AS found
            FROM (SELECT * FROM billing.users WHERE OF_USER(user_id)) AS u
            FULL JOIN (
                -- Below zero is a violation of its own; most grants of a long history are used up.
                SELECT user_id, sum(remaining_credits) AS left_over
                FROM billing.grants WHERE OF_USER(user_id) AND remaining_credits > 0 GROUP BY user_id
            ) AS g USING (user_id)
            WHERE u.available_credits IS DISTINCT FROM coalesce(g.left_over, 0)
        """,
    ),
    Invariant(
        code="statement_lines_have_no_gaps",
        severity="critical",
        meaning="The lines of a user's statement count 1, 2, 3 without a gap",
        query="""
            SELECT coalesce(u.user_id, l.user_id)::text AS subject,
                   format('lines 1 to %s', u.line_number) AS expected,
                   format('%s different line(s), from %s to %s', coalesce(l.lines, 0), l.first_line, l.last_line)
                       AS found
            FROM (SELECT * FROM billing.users WHERE OF_USER(user_id)) AS u
            FULL JOIN (
                SELECT user_id, sum(lines) AS lines, min(first_line) AS first_line, max(last_line) AS last_line
                FROM (
                    SELECT user_id, line_number AS lines, 1 AS first_line, line_number AS last_line
                    FROM PROVEN_BALANCES() AS proven
                    UNION ALL
                    SELECT user_id, count(DISTINCT line_number), min(line_number), max(line_number)
                    FROM LINES_OF_USERS(billing.balance_ledger) AS line WHERE user_id IS NOT NULL GROUP BY user_id
                ) AS part
                GROUP BY user_id
            ) AS l USING (user_id)
            WHERE u.line_number IS DISTINCT FROM coalesce(l.last_line, 0)
               OR coalesce(l.lines, 0) <> coalesce(l.last_line, 0)
               OR coalesce(l.first_line, 1) <> 1
        """,
    ),
    Invariant(
        code="an_order_has_one_verdict",
        severity="critical",
        meaning="An order was reserved or refused, not both",
        query="""
            SELECT generation_id::text AS subject, 'one verdict' AS expected,
                   format('reservation %s and a refusal (%s)', reservation_id, code) AS found
            FROM ROWS_OF_ORDERS(billing.reservations) AS r
            JOIN ROWS_OF_ORDERS(billing.refusals) AS f USING (generation_id)
        """,
    ),
)
