"""What a person must decide."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.payments import PaymentReviewCode
from payments.domain.payment_state import Resolution, Review
from payments.domain.records import ReviewRecord
from payments.tables import reviews


async def put_review(
    connection: AsyncConnection, payment_id: UUID | None, review_id: UUID, review: Review, reference: str = ""
) -> None:
    """Open a review, or see an open one again.

    A decided review stays decided, unless something else is found now. A healed one is opened again.
    """
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
            "expected": statement.excluded.expected,
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


async def heal_reviews(connection: AsyncConnection, payment_id: UUID, codes: Collection[PaymentReviewCode]) -> None:
    """Close a payment's open reviews of these kinds after a poll: what they reported is no longer so."""
    await _heal(connection, "reconciliation", reviews.c.payment_id == payment_id, reviews.c.code.in_(sorted(codes)))


async def heal_unposted(connection: AsyncConnection, movement_ids: Sequence[UUID]) -> None:
    """Close the open reviews of these credit movements: billing has posted them."""
    about = [str(movement_id) for movement_id in movement_ids]
    await _heal(connection, "billing", reviews.c.code == "unposted", reviews.c.reference.in_(about))


async def _heal(connection: AsyncConnection, actor: str, *which: sa.ColumnElement[bool]) -> None:
    healed = sa.update(reviews).where(reviews.c.resolved_at.is_(None), *which)
    await connection.execute(healed.values(resolved_at=sa.func.now(), resolution="healed", actor=actor))


async def find_review(connection: AsyncConnection, review_id: UUID) -> ReviewRecord | None:
    """One review without a lock."""
    statement = sa.select(reviews).where(reviews.c.review_id == review_id)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _record(row)


async def find_open(connection: AsyncConnection) -> list[ReviewRecord]:
    """Everything that waits for a person, oldest first."""
    statement = sa.select(reviews).where(reviews.c.resolved_at.is_(None)).order_by(reviews.c.opened_at)
    return [_record(row) for row in await connection.execute(statement)]


async def lock_review(connection: AsyncConnection, review_id: UUID) -> ReviewRecord | None:
    """One review under its row lock."""
    statement = sa.select(reviews).where(reviews.c.review_id == review_id).with_for_update()
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _record(row)


async def decide_review(
    connection: AsyncConnection, review_id: UUID, resolution: Resolution, actor: str, note: str
) -> None:
    """Record a person's decision."""
    statement = (
        sa.update(reviews)
        .where(reviews.c.review_id == review_id)
        .values(resolved_at=sa.func.now(), resolution=resolution, actor=actor, note=note)
    )
    await connection.execute(statement)


def _record(row: sa.Row[Any]) -> ReviewRecord:
    return ReviewRecord(
        review_id=row.review_id,
        payment_id=row.payment_id,
        code=row.code,
        reference=row.reference,
        expected=row.expected,
        found=row.found,
        opened_at=row.opened_at,
        resolved_at=row.resolved_at,
        resolution=row.resolution,
    )
