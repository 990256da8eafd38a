"""Reads that decide nothing."""

from sqlalchemy.ext.asyncio import AsyncConnection

from payments.repository import reviews


async def list_open_reviews(connection: AsyncConnection) -> str:
    """A text for the operator: everything that waits for a person, oldest first."""
    waiting = await reviews.find_open(connection)
    if not waiting:
        return "nothing waits for a decision"
    lines = [
        f"{review.review_id}  {review.opened_at:%Y-%m-%d %H:%M}  payment {review.payment_id}  {review.code}\n"
        f"    expected: {review.expected}\n    found:    {review.found}"
        for review in waiting
    ]
    return "\n".join(lines)
