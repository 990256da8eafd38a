"""Credits that come from payments, and go back with them."""

from typing import Final

from auditor.domain import Invariant

PAID: Final = ("settled", "partially_refunded", "refunded", "disputed", "dispute_lost")
"""Statuses of payments whose money arrived, whatever happened to it later."""

_PAID: Final = ", ".join(f"'{status}'" for status in PAID)

MONEY: Final = (
    Invariant(
        code="payment_requests_are_answered",
        severity="critical",
        meaning="A request for a payment becomes a payment of that user or is refused; every payment was requested",
        query="""
            SELECT coalesce(q.payment_id, p.payment_id)::text AS subject,
                   CASE WHEN q.payment_id IS NULL THEN 'no payment: none was requested'
                        ELSE format('a payment of user %s, or a refusal', q.user_id) END AS expected,
                   CASE WHEN p.payment_id IS NULL THEN format('neither since %s', q.created_at)
                        ELSE format('a payment of user %s that is %s', p.user_id, p.status) END AS found
            FROM (SELECT * FROM gateway.payment_requests WHERE OF_PAYMENT(payment_id)) AS q
            FULL JOIN (SELECT * FROM payments.payment_transactions WHERE OF_PAYMENT(payment_id)) AS p
                USING (payment_id)
            WHERE (p.payment_id IS NULL AND q.refusal_code IS NULL
                   AND q.created_at <= now() - make_interval(secs => :tolerance))
               OR (p.payment_id IS NOT NULL AND p.user_id IS DISTINCT FROM q.user_id)
        """,
    ),
    Invariant(
        code="one_grant_per_payment",
        severity="critical",
        meaning="A payment is credited once",
        query="""
            SELECT payment_id::text AS subject, format('one grant for the %s', reason) AS expected,
                   format('%s: %s', count(*), string_agg(grant_id::text, ', ')) AS found
            FROM billing.grants
            WHERE OF_PAYMENT(payment_id) AND payment_id IS NOT NULL AND reason IN ('purchase', 'bonus')
            GROUP BY payment_id, reason
            HAVING count(*) > 1
        """,
    ),
    Invariant(
        code="payments_reach_the_ledger",
        severity="critical",
        meaning="What payments ordered for a payment is in the ledger as ordered: kind, credits and user",
        query="""
            SELECT m.payment_id::text AS subject,
                   format('%s of %s credits for user %s', m.kind, m.amount_credits, p.user_id) AS expected,
                   CASE WHEN b.movement_id IS NULL THEN format('nothing since %s', m.ordered_at)
                        ELSE format('%s of %s credits for user %s and payment %s', b.kind, b.amount_credits, b.user_id,
                                    b.payment_id) END AS found
            FROM payments.credit_movements AS m
            LEFT JOIN payments.payment_transactions AS p USING (payment_id)
            LEFT JOIN (
                SELECT grant_id AS movement_id, reason AS kind, amount_credits, user_id, payment_id
                FROM billing.grants
                UNION ALL
                SELECT clawback_id, reason, taken_credits + receivable_credits, user_id, payment_id
                FROM billing.clawbacks
            ) AS b USING (movement_id)
            WHERE OF_PAYMENT(m.payment_id)
              AND (b.movement_id IS NOT NULL OR m.ordered_at <= now() - make_interval(secs => :tolerance))
              AND (b.kind, b.amount_credits, b.user_id, b.payment_id)
                  IS DISTINCT FROM (m.kind, m.amount_credits, p.user_id, m.payment_id)
        """,
    ),
    Invariant(
        code="paid_payments_are_credited",
        severity="critical",
        meaning="A paid payment has its credits and its bonus ordered of billing, and an unpaid one has not",
        query=f"""
            SELECT p.payment_id::text AS subject,
                   format('%s bought and %s bonus credits ordered for a payment that is %s', p.paid * p.credits,
                          p.paid * p.bonus_credits, p.status) AS expected,
                   format('%s and %s', coalesce(m.bought, 0), coalesce(m.bonus, 0)) AS found
            FROM (
                SELECT *, CASE WHEN status IN ({_PAID}) THEN 1 ELSE 0 END AS paid FROM payments.payment_transactions
                WHERE OF_PAYMENT(payment_id)
            ) AS p
            LEFT JOIN (
                SELECT payment_id,
                       coalesce(sum(amount_credits) FILTER (WHERE kind = 'purchase'), 0) AS bought,
                       coalesce(sum(amount_credits) FILTER (WHERE kind = 'bonus'), 0) AS bonus
                FROM payments.credit_movements WHERE OF_PAYMENT(payment_id) GROUP BY payment_id
            ) AS m USING (payment_id)
            -- What was paid before may be put in doubt: a person decides.
            WHERE p.status <> 'review'
              AND (coalesce(m.bought, 0), coalesce(m.bonus, 0)) <> (p.paid * p.credits, p.paid * p.bonus_credits)
        """,  # noqa: S608 - the statuses are constants
    ),
    Invariant(
        code="returned_money_takes_its_credits_back",
        severity="critical",
        meaning="What was refunded or charged back took its share of a payment's credits back, and no more",
        # What arrived beyond the price goes first; what arrived short of it and was credited all the same is worth all.
        query=f"""
            SELECT p.payment_id::text AS subject,
                   format('%s of %s credits taken back for %s of %s cents', due.credits,
                          p.credits + p.bonus_credits, due.lost_cents, paid.basis) AS expected,
                   format('%s taken back', coalesce(m.taken, 0)) AS found
            FROM payments.payment_transactions AS p
            LEFT JOIN (
                SELECT payment_id, sum(amount_cents) AS cents FROM payments.disputes
                WHERE OF_PAYMENT(payment_id) AND state IN ('open', 'lost') GROUP BY payment_id
            ) AS d USING (payment_id)
            LEFT JOIN (
                SELECT payment_id,
                       sum(CASE WHEN kind IN ('refund', 'dispute') THEN amount_credits ELSE -amount_credits END)
                       AS taken
                FROM payments.credit_movements
                WHERE OF_PAYMENT(payment_id) AND kind NOT IN ('purchase', 'bonus') GROUP BY payment_id
            ) AS m USING (payment_id)
            CROSS JOIN LATERAL (
                SELECT least(coalesce(nullif(p.paid_cents, 0), p.price_cents), p.price_cents) AS basis
            ) AS paid
            CROSS JOIN LATERAL (
                SELECT least(paid.basis, greatest(0, paid.basis - greatest(p.paid_cents, paid.basis)
                                                     + p.refunded_cents + coalesce(d.cents, 0))) AS lost_cents
            ) AS gone
            CROSS JOIN LATERAL (
                SELECT gone.lost_cents, (p.credits + p.bonus_credits) * gone.lost_cents / paid.basis AS credits
            ) AS due
            WHERE OF_PAYMENT(p.payment_id) AND p.status IN ({_PAID}) AND coalesce(m.taken, 0) <> due.credits
        """,  # noqa: S608 - the statuses are constants
    ),
    Invariant(
        code="grants_have_an_origin",
        severity="critical",
        meaning="Every grant comes from a payment whose money arrived, from a sign-up, or from an operator's command",
        # The settled payment, the sign-up and the operator's record are committed before, or with, the grant: nothing
        # is tolerated.
        query="""
            SELECT g.grant_id::text AS subject,
                   CASE WHEN g.reason = 'signup'
                             THEN format('a sign-up of user %s with %s credits, or the command of an operator',
                                         g.user_id, g.amount_credits)
                        WHEN g.reason = 'goodwill' THEN 'the command of an operator for a goodwill'
                        ELSE format('a settled payment that requested the %s', g.reason) END AS expected,
                   CASE WHEN s.grant_id IS NOT NULL
                             THEN format('a sign-up of user %s with %s credits', s.user_id, s.amount_credits)
                        WHEN g.reason IN ('signup', 'goodwill') THEN format('none, only the actor "%s"', g.actor)
                        WHEN p.payment_id IS NULL THEN 'no payment'
                        ELSE format('payment %s, which is %s and never settled', p.payment_id, p.status) END AS found
            FROM billing.grants AS g
            LEFT JOIN billing.operator_grants AS o USING (grant_id)
            LEFT JOIN gateway.signups AS s USING (grant_id)
            LEFT JOIN payments.credit_movements AS m ON m.movement_id = g.grant_id
            LEFT JOIN payments.payment_transactions AS p ON p.payment_id = m.payment_id
            WHERE OF_MOVEMENT(g.grant_id)
              AND CASE WHEN g.reason = 'signup'
                            THEN o.grant_id IS NULL
                                 AND (s.user_id, s.amount_credits) IS DISTINCT FROM (g.user_id, g.amount_credits)
                       WHEN g.reason = 'goodwill' THEN o.grant_id IS NULL
                       ELSE p.settled_at IS NULL END
        """,
    ),
    Invariant(
        code="signups_reach_the_ledger",
        severity="critical",
        meaning="A user who signed up has the credits that the sign-up promised",
        query="""
            SELECT s.grant_id::text AS subject,
                   format('%s credits for user %s', s.amount_credits, s.user_id) AS expected,
                   CASE WHEN g.grant_id IS NULL THEN format('nothing since %s', s.requested_at)
                        ELSE format('a %s of %s credits for user %s', g.reason, g.amount_credits, g.user_id)
                   END AS found
            FROM gateway.signups AS s
            LEFT JOIN billing.grants AS g USING (grant_id)
            WHERE OF_MOVEMENT(s.grant_id)
              AND (g.grant_id IS NOT NULL OR s.requested_at <= now() - make_interval(secs => :tolerance))
              AND (g.reason, g.amount_credits, g.user_id) IS DISTINCT FROM ('signup', s.amount_credits, s.user_id)
        """,
    ),
    Invariant(
        code="bought_credits_have_a_payment",
        severity="critical",
        meaning="Credits that were bought, or given back after a clawback, were ordered for a payment of their user",
        query="""
            SELECT g.grant_id::text AS subject,
                   format('a %s ordered for a payment of user %s', g.reason, g.user_id) AS expected,
                   CASE WHEN p.payment_id IS NULL THEN 'no payment ordered it'
                        ELSE format('payment %s of user %s', p.payment_id, p.user_id) END AS found
            FROM billing.grants AS g
            LEFT JOIN payments.credit_movements AS m ON m.movement_id = g.grant_id
            LEFT JOIN payments.payment_transactions AS p ON p.payment_id = m.payment_id
            WHERE OF_MOVEMENT(g.grant_id) AND g.reason IN ('purchase', 'bonus', 'dispute_won', 'refund_failed')
              AND p.user_id IS DISTINCT FROM g.user_id
        """,
    ),
    Invariant(
        code="clawbacks_have_a_payment",
        severity="critical",
        meaning="Credits are taken back only where a payment of the same user ordered it",
        query="""
            SELECT c.clawback_id::text AS subject,
                   format('a %s ordered for a payment of user %s', c.reason, c.user_id) AS expected,
                   CASE WHEN p.payment_id IS NULL THEN 'no payment ordered it'
                        ELSE format('payment %s of user %s', p.payment_id, p.user_id) END AS found
            FROM billing.clawbacks AS c
            LEFT JOIN payments.credit_movements AS m ON m.movement_id = c.clawback_id
            LEFT JOIN payments.payment_transactions AS p ON p.payment_id = m.payment_id
            WHERE OF_MOVEMENT(c.clawback_id) AND p.user_id IS DISTINCT FROM c.user_id
        """,
    ),
    Invariant(
        code="payments_take_back_what_they_gave",
        severity="critical",
        meaning="A payment takes back no more than it gave, gives back no more than it took, and all of it of one user",
        # A clawback may overtake its grant on the way: what is young may not be complete.
        query="""
            SELECT payment_id::text AS subject,
                   format('0 to %s credits taken back, of one user', sum(given)) AS expected,
                   format('%s, of user(s) %s', sum(taken), string_agg(DISTINCT user_id::text, ', ')) AS found
            FROM (
                SELECT payment_id, user_id, granted_at AS moved_at,
                       CASE WHEN reason IN ('purchase', 'bonus') THEN amount_credits ELSE 0 END AS given,
                       CASE WHEN reason IN ('dispute_won', 'refund_failed') THEN -amount_credits ELSE 0 END AS taken
                FROM billing.grants WHERE OF_PAYMENT(payment_id) AND payment_id IS NOT NULL
                UNION ALL
                SELECT payment_id, user_id, clawed_back_at, 0, taken_credits + receivable_credits
                FROM billing.clawbacks WHERE OF_PAYMENT(payment_id)
            ) AS moved
            GROUP BY payment_id
            HAVING (sum(taken) NOT BETWEEN 0 AND sum(given) OR min(user_id::text) <> max(user_id::text))
               AND max(moved_at) <= now() - make_interval(secs => :tolerance)
        """,
    ),
)
