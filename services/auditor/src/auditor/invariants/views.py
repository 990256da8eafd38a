"""What users are shown is what is so: the gateway's read models against the services that own the facts."""

from typing import Final

from auditor.domain import Invariant
from contracts.payments import PaymentChanged

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
            FROM (SELECT * FROM billing.users WHERE OF_USER(user_id)) AS u
            FULL JOIN (SELECT * FROM gateway.balances WHERE OF_USER(user_id)) AS b USING (user_id)
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
            WHERE OF_USER(b.user_id)
              AND (b.line_number, b.available_credits, b.reserved_credits, b.receivable_credits) IS DISTINCT FROM
                  (l.line_number, l.available_after_credits, l.reserved_after_credits, l.receivable_after_credits)
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
            FROM LINES_OF_USERS(gateway.ledger_lines) AS l
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
                SELECT user_id, line_number, transfer_id, reason, generation_id, payment_id,
                       min(occurred_at) AS occurred_at,
                       coalesce(sum(amount_credits) FILTER (WHERE account = 'user:available'), 0) AS available,
                       coalesce(sum(amount_credits) FILTER (WHERE account = 'user:reserved'), 0) AS reserved,
                       coalesce(-sum(amount_credits) FILTER (WHERE account = 'user:receivable'), 0) AS receivable
                FROM LINES_OF_USERS(billing.balance_ledger) AS line
                WHERE user_id IS NOT NULL
                GROUP BY user_id, line_number, transfer_id, reason, generation_id, payment_id
            )
            SELECT coalesce(p.user_id, s.user_id)::text AS subject,
                   CASE WHEN p.user_id IS NULL THEN format('no line %s', s.line_number)
                        ELSE format('line %s: transfer %s, %s of %s, %s, %s for generation %s, payment %s',
                                    p.line_number, p.transfer_id, p.reason, p.available, p.reserved, p.receivable,
                                    p.generation_id, p.payment_id)
                   END AS expected,
                   CASE WHEN s.user_id IS NULL THEN format('none since %s', p.occurred_at)
                        ELSE format('transfer %s, %s of %s, %s, %s for generation %s, payment %s', s.transfer_id,
                                    s.reason, s.available_delta_credits, s.reserved_delta_credits,
                                    s.receivable_delta_credits, s.generation_id, s.payment_id)
                   END AS found
            FROM posted AS p
            FULL JOIN LINES_OF_USERS(gateway.ledger_lines) AS s
                ON s.user_id = p.user_id AND s.line_number = p.line_number
            WHERE (s.user_id IS NOT NULL OR p.occurred_at <= now() - make_interval(secs => :tolerance))
              AND (p.transfer_id, p.reason, p.available, p.reserved, p.receivable, p.generation_id, p.payment_id)
                  IS DISTINCT FROM
                  (s.transfer_id, s.reason, s.available_delta_credits, s.reserved_delta_credits,
                   s.receivable_delta_credits, s.generation_id, s.payment_id)
        """,
    ),
    Invariant(
        code="outcomes_are_shown",
        severity="critical",
        meaning="A generation that ended, or was refused, is shown as such, and none is shown further than it is",
        query="""
            SELECT o.generation_id::text AS subject,
                   format('%s in version %s%s', o.status, o.version, CASE WHEN o.late THEN ' (late)' ELSE '' END)
                       AS expected,
                   CASE WHEN g.generation_id IS NULL THEN 'nothing'
                        ELSE format('%s in version %s%s', g.status, g.version,
                                    CASE WHEN g.late THEN ' (late)' ELSE '' END) END AS found
            FROM (
                SELECT generation_id, status, late, version, finished_at
                FROM ROWS_OF_ORDERS(generation.video_generations) AS v
                UNION ALL
                -- What its user cancelled before billing had seen it is not shown as a refusal.
                SELECT generation_id, CASE code WHEN 'cancelled' THEN 'cancelled' ELSE 'refused' END, false, 0,
                       refused_at
                FROM ROWS_OF_ORDERS(billing.refusals) AS f
            ) AS o
            LEFT JOIN ROWS_OF_ORDERS(gateway.generations) AS g USING (generation_id)
            WHERE g.version > o.version
               OR (g.version = o.version AND o.version > 0 AND (g.status, g.late) <> (o.status, o.late))
               OR (o.status IN ('refused', 'completed', 'failed', 'cancelled')
                   AND o.finished_at <= now() - make_interval(secs => :tolerance)
                   AND (g.status, g.late) IS DISTINCT FROM (o.status, o.late))
        """,
    ),
    Invariant(
        code="outputs_are_shown",
        severity="critical",
        meaning="A user is shown the file of the generation as storage keeps it, and no other",
        query="""
            SELECT coalesce(a.generation_id, g.generation_id)::text AS subject,
                   CASE WHEN a.asset_id IS NULL THEN 'no file'
                        ELSE format('%s with poster %s, sha256 %s, %s bytes, of user %s', a.object_key,
                                    a.poster_object_key, a.sha256, a.size_bytes, a.user_id) END AS expected,
                   CASE WHEN g.object_key IS NULL THEN format('no file; the generation is shown as %s', g.status)
                        ELSE format('%s with poster %s, sha256 %s, %s bytes, shown to user %s', g.object_key,
                                    g.poster_object_key, g.sha256, g.size_bytes, g.user_id) END AS found
            FROM ROWS_OF_ORDERS(gateway.generations) AS g
            FULL JOIN (SELECT * FROM ROWS_OF_ORDERS(storage.assets) AS one WHERE role = 'output') AS a
                USING (generation_id)
            WHERE (g.object_key, g.poster_object_key, g.sha256, g.size_bytes)
                  IS DISTINCT FROM (a.object_key, a.poster_object_key, a.sha256, a.size_bytes)
              -- Storage's word may be on its way, but 'completed' is not shown before it.
              AND (g.object_key IS NOT NULL OR g.status = 'completed'
                   OR a.stored_at <= now() - make_interval(secs => :tolerance))
        """,
    ),
    Invariant(
        code="charges_are_shown",
        severity="critical",
        meaning="A user is shown what was charged and what was given back for a generation",
        query="""
            SELECT r.generation_id::text AS subject,
                   format('%s captured, %s released', due.captured, due.released) AS expected,
                   format('%s captured, %s released', g.captured_credits, g.released_credits) AS found
            FROM ROWS_OF_ORDERS(billing.reservations) AS r
            JOIN ROWS_OF_ORDERS(gateway.generations) AS g USING (generation_id)
            CROSS JOIN LATERAL (
                SELECT CASE WHEN r.status = 'captured' THEN r.captured_credits END AS captured,
                       CASE WHEN r.status = 'released' THEN r.amount_credits END AS released
            ) AS due
            WHERE (g.captured_credits, g.released_credits) IS DISTINCT FROM (due.captured, due.released)
              AND (num_nonnulls(g.captured_credits, g.released_credits) > 0
                   OR r.resolved_at <= now() - make_interval(secs => :tolerance))
        """,
    ),
    Invariant(
        code="payments_are_shown",
        severity="critical",
        meaning="A payment is shown to its user as it is, soon after it changed and never before",
        query=f"""
            SELECT p.payment_id::text AS subject,
                   format('%s in version %s, %s credits for %s cents, %s refunded, of user %s', p.status, p.version,
                          p.credits + p.bonus_credits, p.price_cents, p.refunded_cents, p.user_id) AS expected,
                   CASE WHEN g.payment_id IS NULL THEN 'nothing'
                        ELSE format('%s in version %s, %s credits for %s cents, %s refunded, of user %s', g.status,
                                    g.version, g.credits + g.bonus_credits, g.price_cents, g.refunded_cents,
                                    g.user_id) END AS found
            FROM payments.payment_transactions AS p
            LEFT JOIN gateway.payments AS g USING (payment_id)
            WHERE OF_PAYMENT(p.payment_id) AND (
                g.version > p.version OR g.user_id <> p.user_id
                OR (g.version = p.version
                    AND (g.status, g.credits, g.bonus_credits, g.price_cents, g.refunded_cents)
                        <> (p.status, p.credits, p.bonus_credits, p.price_cents, p.refunded_cents))
                -- The news of the latest version may be on its way.
                OR (g.version IS DISTINCT FROM p.version
                    AND NOT EXISTS (
                        SELECT FROM payments.outbox_messages AS o
                        WHERE o.correlation_id = p.payment_id AND o.subject = '{PaymentChanged.subject}'
                          AND o.created_at > now() - make_interval(secs => :tolerance))))
        """,  # noqa: S608 - the subject is a constant of the contracts
    ),
)
