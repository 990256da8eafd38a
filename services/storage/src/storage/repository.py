"""All SQL of storage. What every file executes is put together once."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.storage import AssetStored
from contracts.values import MediaProperties
from storage.tables import assets, uploads, verifications

OUTPUT: Final = "output"

_ADD_VERIFICATIONS: Final = insert(verifications).values(next_try_at=sa.func.now()).on_conflict_do_nothing()

LOOKAHEAD: Final = 1000
"""So many of the open questions, the longest waiting ones, are put into the order of turns."""

# A user's first turn comes before anybody's second one, and what is being looked at counts as turns that were had:
# whoever asks much, or what takes long, holds up the others by what is being looked at already, and by no more.
_CLAIM_DUE: Final = sa.text("""
    WITH open AS MATERIALIZED (
        SELECT message_id, user_id, next_try_at, coalesce(leased_until >= now(), false) AS leased
        FROM storage.verifications
        WHERE subject = ANY(CAST(:subjects AS text[])) AND next_try_at <= now()
        ORDER BY next_try_at LIMIT :lookahead
    ), turns AS MATERIALIZED (
        SELECT message_id, leased, next_try_at,
               row_number() OVER (PARTITION BY user_id ORDER BY leased DESC, next_try_at) AS turn
        FROM open
    ), chosen AS MATERIALIZED (
        SELECT v.message_id
        FROM turns AS t JOIN storage.verifications AS v USING (message_id)
        WHERE NOT t.leased AND v.next_try_at IS NOT NULL AND (v.leased_until IS NULL OR v.leased_until < now())
        ORDER BY t.turn, t.next_try_at LIMIT :room
        FOR UPDATE OF v SKIP LOCKED
    )
    UPDATE storage.verifications AS v
    SET leased_until = now() + CAST(:lease AS interval), fence = fence + 1, tries = tries + 1
    FROM chosen WHERE v.message_id = chosen.message_id
    RETURNING v.*
""").columns(**{column.name: column.type for column in verifications.c})
_ANSWER: Final = (
    sa.update(verifications)
    .where(
        verifications.c.message_id == sa.bindparam("claimed_id"), verifications.c.fence == sa.bindparam("claimed_fence")
    )
    .values(answer=sa.bindparam("said"), answered_at=sa.func.now(), next_try_at=None, leased_until=None)
    .returning(verifications.c.message_id)
)
_ADD_ASSET: Final = insert(assets).on_conflict_do_nothing(index_elements=["generation_id", "role"]).returning(*assets.c)
_FIND_ASSETS: Final = sa.select(assets).where(
    assets.c.generation_id == sa.func.any(sa.bindparam("generation_ids", type_=sa.ARRAY(sa.Uuid))),
    assets.c.role == sa.bindparam("role"),
)


async def add_verifications(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Write down what was asked, due at once."""
    await connection.execute(_ADD_VERIFICATIONS, list(rows))


async def claim_due(
    connection: AsyncConnection, subjects: Collection[str], limit: int, lease: timedelta
) -> list[sa.Row[Any]]:
    """Lease verifications whose time has come, users in turn, longest waiting first; each claim raises the fence."""
    values = {"subjects": list(subjects), "room": limit, "lease": lease, "lookahead": LOOKAHEAD}
    return list(await connection.execute(_CLAIM_DUE, values))


async def answer(connection: AsyncConnection, claim: sa.Row[Any], subject: str) -> bool:
    """Close a verification with its answer; False if another worker has claimed it since."""
    values = {"claimed_id": claim.message_id, "claimed_fence": claim.fence, "said": subject}
    return (await connection.execute(_ANSWER, values)).one_or_none() is not None


async def postpone(
    connection: AsyncConnection, claim: sa.Row[Any], delay: timedelta, failed_file: str | None = None
) -> None:
    """Give the lease back and try again later. ``failed_file``: it brought a decoder down."""
    failed_files = [*claim.failed_files, failed_file] if failed_file is not None else claim.failed_files
    statement = (
        sa.update(verifications)
        .where(verifications.c.message_id == claim.message_id, verifications.c.fence == claim.fence)
        .values(next_try_at=sa.func.now() + delay, leased_until=None, failed_files=failed_files)
    )
    await connection.execute(statement)


async def extend_leases(connection: AsyncConnection, claims: Sequence[sa.Row[Any]], lease: timedelta) -> None:
    """Say that these are still being worked on; what another worker has claimed since is left alone."""
    await connection.execute(_held(claims).values(leased_until=sa.func.now() + lease))


async def release(connection: AsyncConnection, claims: Sequence[sa.Row[Any]]) -> None:
    """Give back what was not answered, so that another worker takes it at once."""
    await connection.execute(_held(claims).values(leased_until=None))


async def count_open(connection: AsyncConnection) -> tuple[int, float]:
    """How many questions are open, and for how many seconds the oldest has been."""
    age = sa.func.extract("epoch", sa.func.now() - sa.func.min(verifications.c.asked_at))
    statement = sa.select(sa.func.count(), sa.func.coalesce(age, 0)).where(verifications.c.next_try_at.is_not(None))
    count, seconds = (await connection.execute(statement)).one()
    return count, float(seconds)


def _held(claims: Sequence[sa.Row[Any]]) -> sa.Update:
    held = [(claim.message_id, claim.fence) for claim in claims]
    return (
        sa.update(verifications)
        .where(sa.tuple_(verifications.c.message_id, verifications.c.fence).in_(held))
        # Neither answered nor put off meanwhile.
        .where(verifications.c.leased_until.is_not(None))
    )


async def find_assets(connection: AsyncConnection, generation_ids: Collection[UUID]) -> dict[UUID, AssetStored]:
    """The outputs of those of these generations that have one, as they are announced."""
    rows = await connection.execute(_FIND_ASSETS, {"generation_ids": list(generation_ids), "role": OUTPUT})
    return {row.generation_id: _announcement(row) for row in rows}


async def add_asset(connection: AsyncConnection, asset: AssetStored) -> AssetStored:
    """Record the output of a generation and return what stands: the first one recorded wins."""
    row = {
        "asset_id": asset.asset_id,
        "generation_id": asset.generation_id,
        "role": OUTPUT,
        "user_id": asset.user_id,
        "attempt_id": asset.attempt_id,
        "attempt_number": asset.attempt_number,
        "object_key": asset.object_key,
        "poster_object_key": asset.poster_object_key,
        "size_bytes": asset.size_bytes,
        "sha256": asset.sha256,
        "media": msgspec.to_builtins(asset.media),
    }
    added = (await connection.execute(_ADD_ASSET, row)).one_or_none()
    if added is not None:
        return _announcement(added)
    return (await find_assets(connection, [asset.generation_id]))[asset.generation_id]


async def put_upload(
    connection: AsyncConnection,
    upload_id: UUID,
    user_id: UUID,
    key: str,
    size_bytes: int,
    sha256: str,
    media: MediaProperties,
) -> None:
    """Remember that a user's upload was looked at and is a picture."""
    statement = insert(uploads).values(
        upload_id=upload_id,
        user_id=user_id,
        object_key=key,
        size_bytes=size_bytes,
        sha256=sha256,
        media=msgspec.to_builtins(media),
    )
    statement = statement.on_conflict_do_update(
        index_elements=["upload_id"],
        set_={name: statement.excluded[name] for name in ("size_bytes", "sha256", "media")}
        | {"verified_at": sa.func.now()},
        where=uploads.c.user_id == statement.excluded.user_id,
    )
    await connection.execute(statement)


def _announcement(row: sa.Row[Any]) -> AssetStored:
    return AssetStored(
        asset_id=row.asset_id,
        generation_id=row.generation_id,
        user_id=row.user_id,
        attempt_id=row.attempt_id,
        attempt_number=row.attempt_number,
        object_key=row.object_key,
        poster_object_key=row.poster_object_key,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        media=msgspec.convert(row.media, MediaProperties),
        stored_at=row.stored_at,
    )
