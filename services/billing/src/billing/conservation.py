"""The invariants of the ledger as SQL: each query names the rows that break it, and returns none when all is well.

They look at what is stored and at nothing that the code computes, and hold at every moment, in the middle of any load:
run them in one REPEATABLE READ transaction. The same list proves the ledger in `verify` and in the fault tests.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

LIMIT_PER_INVARIANT = 20
"""How many offenders of one kind are named; one is enough to raise the alarm."""


class Violation(NamedTuple):
    """An invariant that does not hold, and where."""

    invariant: str
    detail: str


INVARIANTS: Final[Mapping[str, str]] = {
    "all postings add up to zero": """
        SELECT 'they add up to ' || total
        FROM (SELECT coalesce(sum(amount_credits), 0) AS total FROM billing.balance_ledger) AS postings
        WHERE total <> 0
    """,
    "the postings of each transfer add up to zero": """
        SELECT 'transfer ' || transfer_id || ' adds up to ' || sum(amount_credits)
               || ', postings ' || string_agg(posting_id::text, ', ' ORDER BY posting_id)
        FROM billing.balance_ledger
        GROUP BY transfer_id
        HAVING sum(amount_credits) <> 0
    """,
    "balances equal their postings and are not negative": """
        WITH posted AS (
            SELECT user_id,
                   coalesce(sum(amount_credits) FILTER (WHERE account = 'user:available'), 0) AS available,
                   coalesce(sum(amount_credits) FILTER (WHERE account = 'user:reserved'), 0) AS reserved,
                   coalesce(-sum(amount_credits) FILTER (WHERE account = 'user:receivable'), 0) AS receivable
            FROM billing.balance_ledger
            WHERE user_id IS NOT NULL
            GROUP BY user_id
        )
        SELECT format('user %s: available %s, reserved %s, receivable %s; postings say %s, %s, %s',
                      coalesce(u.user_id, p.user_id), u.available_credits, u.reserved_credits, u.receivable_credits,
                      p.available, p.reserved, p.receivable)
        FROM billing.users AS u FULL JOIN posted AS p USING (user_id)
        WHERE (u.available_credits, u.reserved_credits, u.receivable_credits)
              IS DISTINCT FROM (coalesce(p.available, 0), coalesce(p.reserved, 0), coalesce(p.receivable, 0))
           OR least(u.available_credits, u.reserved_credits, u.receivable_credits) < 0
    """,
    "statement lines count 1, 2, 3 without a gap": """
        SELECT format('user %s: %s lines, the last is %s, the balance says %s',
                      coalesce(u.user_id, l.user_id), l.lines, l.last_line, u.line_number)
        FROM billing.users AS u
        FULL JOIN (
            SELECT user_id, count(DISTINCT line_number) AS lines, max(line_number) AS last_line
            FROM billing.balance_ledger WHERE user_id IS NOT NULL GROUP BY user_id
        ) AS l USING (user_id)
        WHERE u.line_number IS DISTINCT FROM coalesce(l.last_line, 0)
           OR coalesce(l.lines, 0) <> coalesce(l.last_line, 0)
    """,
    "held reservations add up to what is reserved": """
        SELECT format('user %s: %s held, %s reserved', coalesce(u.user_id, h.user_id), h.held, u.reserved_credits)
        FROM billing.users AS u
        FULL JOIN (
            SELECT user_id, sum(amount_credits) AS held FROM billing.reservations WHERE status = 'held' GROUP BY user_id
        ) AS h USING (user_id)
        WHERE u.reserved_credits IS DISTINCT FROM coalesce(h.held, 0)
    """,
    "the remainders of the grants add up to what is available": """
        SELECT format('user %s: %s in grants, %s available', coalesce(u.user_id, g.user_id), g.left_over,
                      u.available_credits)
        FROM billing.users AS u
        FULL JOIN (
            SELECT user_id, sum(remaining_credits) AS left_over FROM billing.grants GROUP BY user_id
        ) AS g USING (user_id)
        WHERE u.available_credits IS DISTINCT FROM coalesce(g.left_over, 0)
    """,
    "a reservation is posted once and resolved as its resolution says": """
        WITH posted AS (
            SELECT generation_id,
                   coalesce(sum(amount_credits) FILTER (WHERE reason = 'reserve' AND account = 'user:reserved'), 0)
                       AS reserved,
                   coalesce(-sum(amount_credits) FILTER (WHERE reason = 'capture' AND account = 'user:reserved'), 0)
                       AS captured,
                   coalesce(-sum(amount_credits) FILTER (WHERE reason = 'release' AND account = 'user:reserved'), 0)
                       AS released
            FROM billing.balance_ledger
            WHERE generation_id IS NOT NULL
            GROUP BY generation_id
        )
        SELECT format('generation %s: %s of %s reserved, %s captured, %s released; posted %s, %s, %s',
                      coalesce(r.generation_id, p.generation_id), r.status, r.amount_credits, e.captured_credits,
                      e.released_credits, p.reserved, p.captured, p.released)
        FROM billing.reservations AS r
        LEFT JOIN billing.reservation_resolutions AS e USING (reservation_id)
        FULL JOIN posted AS p USING (generation_id)
        WHERE r.amount_credits IS DISTINCT FROM p.reserved
           OR coalesce(e.captured_credits, 0) <> p.captured
           OR coalesce(e.released_credits, 0) <> p.released
           OR r.status <> coalesce(e.status, 'held')
           OR (e.reservation_id IS NOT NULL AND p.captured + p.released <> p.reserved)
    """,
    "what a reservation drew from grants adds up to its amount": """
        SELECT format('generation %s: %s drawn, %s reserved', r.generation_id, d.drawn, r.amount_credits)
        FROM billing.reservations AS r
        LEFT JOIN (
            SELECT reservation_id, sum(amount_credits) AS drawn FROM billing.reservation_grants GROUP BY reservation_id
        ) AS d USING (reservation_id)
        WHERE d.drawn IS DISTINCT FROM r.amount_credits
    """,
    "a grant is posted once": """
        SELECT format('grant %s: %s granted, %s posted', coalesce(g.grant_id, p.grant_id), g.amount_credits, p.posted)
        FROM billing.grants AS g
        FULL JOIN (
            SELECT grant_id, coalesce(sum(amount_credits) FILTER (WHERE account = 'user:available' AND reason IN (
                       'purchase', 'bonus', 'signup', 'goodwill', 'dispute_won', 'refund_failed')), 0) AS posted
            FROM billing.balance_ledger WHERE grant_id IS NOT NULL GROUP BY grant_id
        ) AS p USING (grant_id)
        WHERE g.amount_credits IS DISTINCT FROM p.posted
    """,
    "a clawback is posted once": """
        SELECT format('clawback %s: %s taken and %s owed, posted %s', coalesce(c.clawback_id, p.clawback_id),
                      c.taken_credits, c.receivable_credits, p.posted)
        FROM billing.clawbacks AS c
        FULL JOIN (
            SELECT clawback_id, -sum(amount_credits) FILTER (WHERE user_id IS NOT NULL) AS posted
            FROM billing.balance_ledger WHERE clawback_id IS NOT NULL GROUP BY clawback_id
        ) AS p USING (clawback_id)
        WHERE c.taken_credits + c.receivable_credits IS DISTINCT FROM p.posted
    """,
    "an order has one verdict": """
        SELECT format('generation %s was reserved and refused', generation_id)
        FROM billing.reservations JOIN billing.refusals USING (generation_id)
    """,
}


async def find_violations(connection: AsyncConnection) -> list[Violation]:
    """Check every invariant in the transaction of ``connection``."""
    violations: list[Violation] = []
    for invariant, query in INVARIANTS.items():
        rows = await connection.execute(text(f"{query} LIMIT {LIMIT_PER_INVARIANT}"))
        violations += (Violation(invariant, detail) for detail in rows.scalars())
    return violations


async def check(engine: AsyncEngine) -> list[Violation]:
    """Check every invariant on one snapshot of the database, whatever is written meanwhile."""
    async with engine.connect() as connection:
        snapshot = await connection.execution_options(isolation_level="REPEATABLE READ")
        async with snapshot.begin():
            return await find_violations(snapshot)
