"""What a person must decide."""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from payments.domain import Review
from payments.tables import (
    reviews,
)


async def put_review(
    connection: AsyncConnection, payment_id: UUID | None, review_id: UUID, review: Review, reference: str = ""
) -> None:
    """Open a review, or see an open one again. One that was decided stays decided, unless something else is found now;
    one that healed is opened again."""
    statement = insert(reviews).values(
        review_id=review_id,
        payment_id=payment_id,
        code=review.code,
        reference=reference,
        expected=review.expected,
        found=review.found,
    )
    statement = statement.on_conflict_do_update(
        index_elements=["payment_id", "code", "reference"],
        set_={
            "last_seen_at": sa.func.now(),
            "found": statement.excluded.found,
            "opened_at": sa.case((reviews.c.resolved_at.is_(None), reviews.c.opened_at), else_=sa.func.now()),
            "resolved_at": None,
            "resolution": None,
            "actor": None,
            "note": None,
        },
        where=sa.or_(
            reviews.c.resolved_at.is_(None),
            reviews.c.resolution == "healed",
            reviews.c.found != statement.excluded.found,
        ),
    )
    await connection.execute(statement)


async def resolve_reviews(connection: AsyncConnection, payment_id: UUID, code: str, actor: str) -> None:
    """Close the open reviews of one kind: what they reported is no longer so."""
    statement = (
        sa.update(reviews)
        .where(reviews.c.payment_id == payment_id, reviews.c.code == code, reviews.c.resolved_at.is_(None))
        .values(resolved_at=sa.func.now(), resolution="healed", actor=actor)
    )
    await connection.execute(statement)


async def find_review(connection: AsyncConnection, review_id: UUID) -> sa.Row[Any] | None:
    """One review without a lock."""
    statement = sa.select(reviews).where(reviews.c.review_id == review_id)
    return (await connection.execute(statement)).one_or_none()


async def lock_review(connection: AsyncConnection, review_id: UUID) -> sa.Row[Any] | None:
    """One review under its row lock."""
    statement = sa.select(reviews).where(reviews.c.review_id == review_id).with_for_update()
    return (await connection.execute(statement)).one_or_none()


async def decide_review(connection: AsyncConnection, review_id: UUID, resolution: str, actor: str, note: str) -> None:
    """Record a person's decision."""
    statement = (
        sa.update(reviews)
        .where(reviews.c.review_id == review_id)
        .values(resolved_at=sa.func.now(), resolution=resolution, actor=actor, note=note)
    )
    await connection.execute(statement)
