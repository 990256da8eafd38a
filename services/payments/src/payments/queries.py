"""Reads that decide nothing."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from payments.tables import reviews


async def open_reviews(connection: AsyncConnection) -> str:
    """A table of everything that waits for a person, oldest first."""
    statement = sa.select(reviews).where(reviews.c.resolved_at.is_(None)).order_by(reviews.c.opened_at)
    rows = list(await connection.execute(statement))
    if not rows:
        return "nothing waits for a decision"
    lines = [
        f"{row.review_id}  {row.opened_at:%Y-%m-%d %H:%M}  payment {row.payment_id}  {row.code}\n"
        f"    expected: {row.expected}\n    found:    {row.found}"
        for row in rows
    ]
    return "\n".join(lines)
