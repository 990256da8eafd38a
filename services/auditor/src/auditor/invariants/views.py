"""What users are shown is what is so: the gateway's read models against the services that own the facts."""

from typing import Final

from auditor.domain import Invariant

VIEWS: Final = (
    Invariant(
        code="balances_shown_equal_billings",
        severity="critical",
        meaning="The balance that a user is shown is billing's",
        query="""
            SELECT coalesce(u.user_id, b.user_id)::text AS subject,
                   format('available %s, reserved %s, receivable %s at line %s', coalesce(u.available_credits, 0),
                          coalesce(u.reserved_credits, 0), coalesce(u.receivable_credits, 0),
                          coalesce(u.line_number, 0)) AS expected,
                   format('available %s, reserved %s, receivable %s at line %s', coalesce(b.available_credits, 0),
                          coalesce(b.reserved_credits, 0), coalesce(b.receivable_credits, 0),
                          coalesce(b.line_number, 0)) AS found
            FROM billing.users AS u FULL JOIN gateway.balances AS b USING (user_id)
            WHERE (coalesce(u.available_credits, 0), coalesce(u.reserved_credits, 0),
                   coalesce(u.receivable_credits, 0), coalesce(u.line_number, 0))
                  <> (coalesce(b.available_credits, 0), coalesce(b.reserved_credits, 0),
                      coalesce(b.receivable_credits, 0), coalesce(b.line_number, 0))
              -- The event of a user's latest line may be on its way; what is shown without any line cannot be.
              AND NOT EXISTS (
                  SELECT FROM billing.balance_ledger AS l
                  WHERE l.user_id = u.user_id AND l.line_number = u.line_number
                    AND l.occurred_at > now() - make_interval(secs => :tolerance)
              )
        """,
    ),
    Invariant(
        code="balances_shown_follow_the_statement",
        severity="critical",
        meaning="The balance that a user is shown is the end of the statement that the user is shown",
        query="""
            SELECT b.user_id::text AS subject,
                   format('available %s, reserved %s, receivable %s after line %s', l.available_after_credits,
                          l.reserved_after_credits, l.receivable_after_credits, l.line_number) AS expected,
                   format('available %s, reserved %s, receivable %s at line %s', b.available_credits,
                          b.reserved_credits, b.receivable_credits, b.line_number) AS found
            FROM gateway.balances AS b
            LEFT JOIN LATERAL (
                SELECT * FROM gateway.ledger_lines AS s WHERE s.user_id = b.user_id ORDER BY line_number DESC LIMIT 1
            ) AS l ON true
            WHERE (b.line_number, b.available_credits, b.reserved_credits, b.receivable_credits) IS DISTINCT FROM
                  (l.line_number, l.available_after_credits, l.reserved_after_credits, l.receivable_after_credits)
              AND (b.line_number, l.line_number) IS DISTINCT FROM (0, NULL)
        """,
    ),
    Invariant(
        code="statements_add_up",
        severity="critical",
        meaning="Line by line, a statement's movements add up to its balances, which are never negative",
        query="""
            SELECT l.user_id::text AS subject,
                   format('line %s continues available %s, reserved %s, receivable %s by %s, %s, %s', l.line_number,
                          coalesce(p.available_after_credits, 0), coalesce(p.reserved_after_credits, 0),
                          coalesce(p.receivable_after_credits, 0), l.available_delta_credits,
                          l.reserved_delta_credits, l.receivable_delta_credits) AS expected,
                   format('available %s, reserved %s, receivable %s', l.available_after_credits,
                          l.reserved_after_credits, l.receivable_after_credits) AS found
            FROM gateway.ledger_lines AS l
            LEFT JOIN gateway.ledger_lines AS p ON p.user_id = l.user_id AND p.line_number = l.line_number - 1
            -- A line may come before the one that it continues; whether that one is missing is another invariant.
            WHERE (p.user_id IS NOT NULL OR l.line_number = 1)
              AND ((l.available_after_credits - l.available_delta_credits,
                    l.reserved_after_credits - l.reserved_delta_credits,
                    l.receivable_after_credits - l.receivable_delta_credits)
                   <> (coalesce(p.available_after_credits, 0), coalesce(p.reserved_after_credits, 0),
                       coalesce(p.receivable_after_credits, 0))
                   OR least(l.available_after_credits, l.reserved_after_credits, l.receivable_after_credits) < 0)
        """,
    ),
    Invariant(
        code="statements_show_the_ledger",
        severity="critical",
        meaning="Every line of the ledger is on its user's statement as it was posted, and no other is",
        query="""
            WITH posted AS (
                SELECT user_id, line_number, min(occurred_at) AS occurred_at,
                       coalesce(sum(amount_credits) FILTER (WHERE account = 'user:available'), 0) AS available,
                       coalesce(sum(amount_credits) FILTER (WHERE account = 'user:reserved'), 0) AS reserved,
                       coalesce(-sum(amount_credits) FILTER (WHERE account = 'user:receivable'), 0) AS receivable
                FROM billing.balance_ledger
                WHERE user_id IS NOT NULL
                GROUP BY user_id, line_number
            )
            SELECT coalesce(p.user_id, s.user_id)::text AS subject,
                   CASE WHEN p.user_id IS NULL THEN format('no line %s', s.line_number)
                        ELSE format('line %s of %s, %s, %s', p.line_number, p.available, p.reserved, p.receivable)
                   END AS expected,
                   CASE WHEN s.user_id IS NULL THEN format('none since %s', p.occurred_at)
                        ELSE format('a line of %s, %s, %s', s.available_delta_credits, s.reserved_delta_credits,
                                    s.receivable_delta_credits)
                   END AS found
            FROM posted AS p
            FULL JOIN gateway.ledger_lines AS s ON s.user_id = p.user_id AND s.line_number = p.line_number
            WHERE p.user_id IS NULL
               OR (s.user_id IS NULL AND p.occurred_at <= now() - make_interval(secs => :tolerance))
               OR (p.available, p.reserved, p.receivable)
                  <> (s.available_delta_credits, s.reserved_delta_credits, s.receivable_delta_credits)
        """,
    ),
    Invariant(
        code="outcomes_are_shown",
        severity="critical",
        meaning="A generation that ended, or was refused, is shown as such",
        query="""
            SELECT o.generation_id::text AS subject, o.status AS expected, coalesce(g.status, 'nothing') AS found
            FROM (
                SELECT generation_id, status, finished_at AS ended_at FROM generation.video_generations
                WHERE status IN ('completed', 'failed', 'cancelled')
                UNION ALL
                SELECT generation_id, 'refused', refused_at FROM billing.refusals
            ) AS o
            LEFT JOIN gateway.generations AS g USING (generation_id)
            WHERE o.ended_at <= now() - make_interval(secs => :tolerance) AND g.status IS DISTINCT FROM o.status
        """,
    ),
    Invariant(
        code="settled_payments_are_shown",
        severity="critical",
        meaning="A payment is shown no further than it is, and a settled one as settled",
        query="""
            SELECT p.payment_id::text AS subject, format('%s in version %s', p.status, p.version) AS expected,
                   CASE WHEN g.payment_id IS NULL THEN 'nothing'
                        ELSE format('%s in version %s', g.status, g.version) END AS found
            FROM payments.payment_transactions AS p
            LEFT JOIN gateway.payments AS g USING (payment_id)
            WHERE g.version > p.version
               OR (g.version = p.version AND g.status <> p.status)
               OR (p.status = 'settled' AND p.settled_at <= now() - make_interval(secs => :tolerance)
                   AND g.version IS DISTINCT FROM p.version)
        """,
    ),
)
