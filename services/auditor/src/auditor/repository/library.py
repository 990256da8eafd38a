"""Scans of the library: how far each has come, and the files that storage has recorded."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from sqlalchemy import Row, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from auditor.recorded_files import RecordedFile
from auditor.tables import LIBRARY_SCANS, library_scans
from messaging.ids import FIRST_ID
from messaging.leases import Claim, any_of

ScanKind: TypeAlias = Literal["assets", "bucket"]
"""``assets`` reads the files of a range of recorded assets; ``bucket`` lists all keys of the bucket."""
MOST_RANGED: Final = 2000
"""Recorded outputs between two keys of a listing. A page has half as many."""


@dataclass(frozen=True, slots=True)
class LibraryScan:
    """A claimed scan. ``position`` is the last asset id, or the last key, that is done with; None at the start.

    Assets after ``after_id``, up to ``through_id``.
    """

    claim: Claim
    kind: ScanKind
    after_id: UUID
    through_id: UUID
    position: str | None


@dataclass(frozen=True, slots=True)
class RecordedAsset:
    """An asset with its files: the output first."""

    asset_id: UUID
    generation_id: UUID
    files: tuple[RecordedFile, ...]


@dataclass(frozen=True, slots=True)
class ScanAges:
    """In seconds: how long the most overdue scan waits, the age of the oldest reading, and of the last listing."""

    overdue: float
    oldest_read: float
    listing: float


_ASSET: Final = """
    SELECT asset_id, generation_id, object_key, poster_object_key, size_bytes, sha256, stored_at,
           d.generation_id IS NOT NULL AS is_deleted, d.deleted_at, p.ended_at AS previews_stored_at,
           p.thumbnails || coalesce(p.animated_preview, '[]') AS previews
    FROM storage.assets AS a
    LEFT JOIN storage.deletions AS d USING (generation_id)
    LEFT JOIN LATERAL (
        SELECT ended_at, thumbnails, animated_preview FROM storage.previews WHERE asset_id = a.asset_id LIMIT 1
    ) AS p ON true
"""
_ASSETS_AFTER: Final = text(f"{_ASSET} WHERE asset_id > :after AND asset_id <= :through ORDER BY asset_id LIMIT :limit")
_ASSETS_OF: Final = text(f"{_ASSET} WHERE generation_id = ANY(CAST(:generations AS uuid[])) ORDER BY stored_at")
_ASSETS_BETWEEN: Final = text(
    f"{_ASSET} WHERE object_key > :after AND (CAST(:through AS text) IS NULL"
    " OR object_key <= :through) ORDER BY object_key LIMIT :limit"
)
_NEXT_IDS: Final = text("""
    SELECT asset_id FROM storage.assets WHERE asset_id > :after AND asset_id < :before ORDER BY asset_id LIMIT :limit
""")
_AGES: Final = text("""
    SELECT coalesce(extract(epoch FROM max(now() - due_at) FILTER (WHERE kind = 'assets' AND due_at <= now())), 0),
           coalesce(extract(epoch FROM max(now() - coalesce(ended_at, made_at)) FILTER (WHERE kind = 'assets')), 0),
           coalesce(extract(epoch FROM max(now() - coalesce(ended_at, made_at)) FILTER (WHERE kind = 'bucket')), 0)
    FROM auditor.library_scans
""")


async def get_time(connection: AsyncConnection) -> datetime:
    """The database's time."""
    return (await connection.execute(select(func.now()))).scalar_one()


async def find_end(connection: AsyncConnection) -> UUID:
    """The last asset id that a scan covers."""
    newest = select(library_scans.c.through_id).order_by(library_scans.c.through_id.desc()).limit(1)
    return await connection.scalar(newest) or FIRST_ID


async def find_next_ids(connection: AsyncConnection, after: UUID, before: UUID, limit: int) -> Sequence[UUID]:
    """Ids of assets that no scan covers yet, in order."""
    found = await connection.execute(_NEXT_IDS, {"after": after, "before": before, "limit": limit})
    return found.scalars().all()


async def add_scan(connection: AsyncConnection, after: UUID, through: UUID) -> None:
    """Cover the assets of this range, due at once. Another replica may have done so."""
    statement = insert(library_scans).values(kind="assets", after_id=after, through_id=through)
    await connection.execute(statement.on_conflict_do_nothing(index_elements=["after_id"]))


async def claim_scans(connection: AsyncConnection, kind: ScanKind, room: int, lease: timedelta) -> list[LibraryScan]:
    """Claim due scans. The one that became due last comes first: what is new does not wait for a backlog."""
    key = library_scans.c.scan_id
    due = select(key).where(library_scans.c.kind == kind, LIBRARY_SCANS.due())
    chosen = due.order_by(library_scans.c.due_at.desc()).limit(room).with_for_update(skip_locked=True)
    claimed = update(library_scans).where(any_of(key, chosen)).values(LIBRARY_SCANS.claim_values(lease))
    return [_scan(row) for row in await connection.execute(claimed.returning(library_scans))]


async def save_position(connection: AsyncConnection, claim: Claim, position: str, delay: timedelta) -> bool:
    """Go on from there after ``delay``, which follows a failure. False if another worker has claimed it since."""
    tries = claim.tries if delay else 0
    return await LIBRARY_SCANS.postpone(connection, claim, delay, position=position, tries=tries)


async def end_scan(connection: AsyncConnection, claim: Claim, again_in: timedelta) -> bool:
    """It came to its end, and begins anew after ``again_in``. False if another worker has claimed it since."""
    return await LIBRARY_SCANS.postpone(connection, claim, again_in, position=None, tries=0, ended_at=func.now())


async def measure_ages(connection: AsyncConnection) -> ScanAges:
    """How late the scans are."""
    return ScanAges(*map(float, (await connection.execute(_AGES)).one()))


async def find_assets_after(
    connection: AsyncConnection, after: UUID, through: UUID, limit: int
) -> Sequence[RecordedAsset]:
    """Recorded assets in the order of their ids."""
    found = await connection.execute(_ASSETS_AFTER, {"after": after, "through": through, "limit": limit})
    return [_asset(row) for row in found]


async def find_assets_of(connection: AsyncConnection, generations: Collection[UUID]) -> Sequence[RecordedAsset]:
    """Recorded assets of these generations."""
    return [_asset(row) for row in await connection.execute(_ASSETS_OF, {"generations": list(generations)})]


async def find_assets_between(connection: AsyncConnection, after: str, through: str | None) -> Sequence[RecordedAsset]:
    """Recorded assets whose output's key lies between these; None is the end. The database may sort otherwise."""
    found = await connection.execute(_ASSETS_BETWEEN, {"after": after, "through": through, "limit": MOST_RANGED})
    return [_asset(row) for row in found]


def _asset(row: Row[Any]) -> RecordedAsset:
    stored_at: datetime = row.stored_at
    deletion = {"is_deleted": row.is_deleted, "deleted_at": row.deleted_at}
    output = RecordedFile(row.object_key, row.size_bytes, row.sha256, stored_at, **deletion)
    # A small picture is its own poster.
    keys = {row.poster_object_key} - {row.object_key}
    posters = [RecordedFile(key, None, None, stored_at, **deletion) for key in keys]
    previews = [
        RecordedFile(one["object_key"], one["size_bytes"], one["sha256"], row.previews_stored_at, **deletion)
        for one in row.previews or ()
    ]
    return RecordedAsset(row.asset_id, row.generation_id, (output, *posters, *previews))


def _scan(row: Row[Any]) -> LibraryScan:
    return LibraryScan(
        claim=LIBRARY_SCANS.claim_of(row),
        kind=row.kind,
        after_id=row.after_id or FIRST_ID,
        through_id=row.through_id or FIRST_ID,
        position=row.position,
    )
