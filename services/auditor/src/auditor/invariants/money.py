"""Credits that come from payments, and go back with them."""

from typing import Final

from auditor.domain import Invariant

MONEY: Final = (
    Invariant(
        code="one_grant_per_payment",
        severity="critical",
        meaning="A payment is credited once",
        query="""
            SELECT payment_id::text AS subject, format('one grant for the %s', reason) AS expected,
                   format('%s: %s', count(*), string_agg(grant_id::text, ', ')) AS found
            FROM billing.grants
            WHERE payment_id IS NOT NULL AND reason IN ('purchase', 'bonus')
            GROUP BY payment_id, reason
            HAVING count(*) > 1
        """,
    ),
    Invariant(
        code="payments_reach_the_ledger",
        severity="critical",
        meaning="What payments ordered for a payment is in the ledger, to the credit",
        query="""
            SELECT m.payment_id::text AS subject, format('%s of %s credits', m.kind, m.amount_credits) AS expected,
                   CASE WHEN g.grant_id IS NULL AND c.clawback_id IS NULL THEN format('nothing since %s', m.ordered_at)
                        ELSE format('%s credits', coalesce(g.amount_credits, c.taken_credits + c.receivable_credits))
                   END AS found
            FROM payments.credit_movements AS m
            LEFT JOIN billing.grants AS g ON g.grant_id = m.movement_id
            LEFT JOIN billing.clawbacks AS c ON c.clawback_id = m.movement_id
            WHERE m.ordered_at <= now() - make_interval(secs => :tolerance)
              AND m.amount_credits IS DISTINCT FROM
                  coalesce(g.amount_credits, c.taken_credits + c.receivable_credits)
        """,
    ),
    Invariant(
        code="settled_payments_are_credited",
        severity="critical",
        meaning="A settled payment has its credits ordered",
        query="""
            SELECT p.payment_id::text AS subject, format('%s credits ordered of billing', p.credits) AS expected,
                   format('%s credits', coalesce(sum(m.amount_credits), 0)) AS found
            FROM payments.payment_transactions AS p
            LEFT JOIN payments.credit_movements AS m ON m.payment_id = p.payment_id AND m.kind = 'purchase'
            WHERE p.status = 'settled'
            GROUP BY p.payment_id, p.credits
            HAVING coalesce(sum(m.amount_credits), 0) <> p.credits
        """,
    ),
    Invariant(
        code="bought_credits_have_a_payment",
        severity="critical",
        meaning="Bought credits come from a payment of the same user",
        query="""
            SELECT g.grant_id::text AS subject,
                   format('ordered for a payment of user %s', g.user_id) AS expected,
                   CASE WHEN p.payment_id IS NULL THEN 'no payment ordered them'
                        ELSE format('payment %s of user %s', p.payment_id, p.user_id) END AS found
            FROM billing.grants AS g
            LEFT JOIN payments.credit_movements AS m ON m.movement_id = g.grant_id
            LEFT JOIN payments.payment_transactions AS p ON p.payment_id = m.payment_id
            WHERE g.reason IN ('purchase', 'bonus') AND p.user_id IS DISTINCT FROM g.user_id
        """,
    ),
)
