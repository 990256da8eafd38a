"""All SQL of storage. Statements that run for every file are built once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.storage import AssetStored, PreviewsStored
from contracts.values import MediaProperties
from messaging.leases import Claim, LeasedTable, any_of
from storage.domain import VerifiedUpload
from storage.metrics import PreviewOutcome
from storage.tables import DELETIONS, PREVIEWS, VERIFICATIONS, assets, deletions, previews, uploads, verifications

OUTPUT: Final = "output"

LOOKAHEAD: Final = 1000
"""The number of open rows of work, the oldest first, among which users take turns."""


@dataclass(frozen=True, slots=True)
class NewVerification:
    """A verification that a message requests. ``payload`` is the encoded message."""

    message_id: UUID
    subject: str
    generation_id: UUID
    user_id: UUID
    payload: bytes
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class ClaimedVerification:
    """A verification that a worker has claimed.

    ``failed_files`` names a file once for each time that a decoder failed on it. ``has_output``: an output of the
    generation is recorded.
    """

    claim: Claim
    message_id: UUID
    subject: str
    generation_id: UUID
    user_id: UUID
    payload: bytes
    traceparent: str | None
    failed_files: tuple[str, ...]
    requested_at: datetime
    has_output: bool


@dataclass(frozen=True, slots=True)
class OpenVerifications:
    """How many verifications have no result yet, and the age of the oldest one."""

    count: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class NewDeletion:
    """A user deletes the files of a generation, as a message says."""

    generation_id: UUID
    user_id: UUID
    message_id: UUID
    traceparent: str | None
    requested_at: datetime


@dataclass(frozen=True, slots=True)
class ClaimedDeletion:
    """A deletion that a worker has claimed."""

    claim: Claim
    generation_id: UUID
    user_id: UUID
    message_id: UUID
    traceparent: str | None
    requested_at: datetime


@dataclass(frozen=True, slots=True)
class NewPreviews:
    """Small pictures are to be made of an output, in the trace of its verification."""

    traceparent: str | None


@dataclass(frozen=True, slots=True)
class RecordedAsset:
    """The output of a generation as it is recorded. ``is_deleted``: its user has deleted the generation."""

    asset: AssetStored
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class ClaimedPreviews:
    """An output of which a worker is to make previews. ``is_deleted``: its user has deleted the generation.

    ``failures`` counts the tries that failed for a reason of their own.
    """

    claim: Claim
    asset: AssetStored
    is_deleted: bool
    traceparent: str | None
    failures: int


_ADD_VERIFICATIONS: Final = insert(verifications).values(next_try_at=sa.func.now()).on_conflict_do_nothing()


def _claim_in_turns(work: LeasedTable, among: str = "", flags: Mapping[str, str] | None = None) -> sa.TextualSelect:
    """The claim of due rows in which users take turns, the oldest row of each first. ``among`` is a condition.

    ``flags`` are conditions on a claimed row, by the names under which the answers come with it.

    The first turn of each user comes before the second turn of any user. Rows in progress count as turns that were
    taken. So a user with many or with slow files delays others only by the files in progress.

    Rows are locked by their key, in the order of ``t``, until there are enough. ``coalesce`` hides the condition from
    the planner: by the statistics of an empty queue it would walk the index of due rows for each of them.
    """
    table, due_at = work.table.fullname, work.due_at
    (key,) = (column.name for column in work.table.primary_key)
    flags = flags or {}
    returned = ", ".join(["v.*", *(f"{condition} AS {name}" for name, condition in flags.items())])
    types = {column.name: column.type for column in work.table.c} | dict.fromkeys(flags, sa.Boolean())
    return sa.text(f"""
        WITH open AS MATERIALIZED (
            SELECT {key}, user_id, {due_at}, coalesce(leased_until >= now(), false) AS leased
            FROM {table}
            WHERE {among} {due_at} <= now()
            ORDER BY {due_at} LIMIT :lookahead
        ), turns AS MATERIALIZED (
            SELECT {key}, leased, {due_at},
                   row_number() OVER (PARTITION BY user_id ORDER BY leased DESC, {due_at}) AS turn
            FROM open
        ), chosen AS MATERIALIZED (
            SELECT t.{key}
            FROM (SELECT {key} FROM turns WHERE NOT leased ORDER BY turn, {due_at}) AS t
            CROSS JOIN LATERAL (
                SELECT FROM {table} AS v
                WHERE v.{key} = t.{key} AND coalesce({work.due_sql("v")}, false)
                FOR UPDATE SKIP LOCKED
            ) AS locked
            LIMIT :room
        )
        UPDATE {table} AS v
        SET {work.claim_sql("v")}
        WHERE v.{key} = ANY (ARRAY(SELECT {key} FROM chosen))
        RETURNING {returned}
    """).columns(**types)  # noqa: S608 - all parts are constants


# Not EXISTS, of which the planner could make a list of all outputs.
_HAS_OUTPUT: Final = f"""(
    SELECT true FROM storage.assets AS a WHERE a.generation_id = v.generation_id AND a.role = '{OUTPUT}' LIMIT 1
) IS NOT NULL"""  # noqa: S608 - the insertion is a constant
_CLAIM_DUE: Final = _claim_in_turns(
    VERIFICATIONS, "subject = ANY(CAST(:subjects AS text[])) AND", {"has_output": _HAS_OUTPUT}
)
_CLAIM_PREVIEWS: Final = _claim_in_turns(PREVIEWS)
_DUE_AGAIN: Final = {
    "opened_at": sa.func.now(),
    "due_at": sa.func.now(),
    "leased_until": None,
    # A worker that is at it may have passed the new file by: it cannot record that all are gone.
    "fence": deletions.c.fence + 1,
    "tries": 0,
    "deleted_at": None,
}
_REOPEN_DELETION: Final = (
    sa.update(deletions)
    .where(deletions.c.generation_id == sa.bindparam("stored_generation_id"))
    .values(_DUE_AGAIN)
    .returning(deletions.c.generation_id)
)

_ADDED: Final = (
    insert(assets)
    .values({one.name: sa.bindparam(f"new_{one.name}", type_=one.type) for one in assets.c if one.name != "stored_at"})
    # Of all constraints: with a target, two that come at the same instant can meet at the key of the object.
    .on_conflict_do_nothing()
    .returning(*assets.c)
    .cte("added")
)
_REOPENED: Final = _REOPEN_DELETION.cte("reopened")
_ALWAYS: Final = sa.select(sa.literal(1).label("one")).subquery("always")
# One row, also where nothing was added.
_ADD_ASSET: Final = sa.select(_ADDED, sa.exists(sa.select(_REOPENED)).label("is_deleted")).select_from(
    _ALWAYS.outerjoin(_ADDED, sa.true())
)
_REQUESTED: Final = ("asset_id", "generation_id", "user_id")
_REQUEST: Final = sa.select(
    *(_ADDED.c[name] for name in _REQUESTED), sa.bindparam("previews_traceparent", type_=sa.Text).label("traceparent")
)
_ADD_PREVIEWED: Final = _ADD_ASSET.add_cte(
    sa.insert(previews).from_select((*_REQUESTED, "traceparent"), _REQUEST).cte("requested")
)
_FIND_ASSETS: Final = sa.select(assets).where(
    assets.c.generation_id == sa.func.any(sa.bindparam("generation_ids", type_=sa.ARRAY(sa.Uuid))),
    assets.c.role == sa.bindparam("role"),
)

_IS_DELETED: Final = (
    sa.select(sa.true()).where(deletions.c.generation_id == assets.c.generation_id).limit(1).scalar_subquery()
)
_FIND_PREVIEWED: Final = sa.select(assets, sa.func.coalesce(_IS_DELETED, sa.false()).label("is_deleted")).where(
    assets.c.asset_id == sa.func.any(sa.bindparam("asset_ids", type_=sa.ARRAY(sa.Uuid)))
)


async def add_verifications(connection: AsyncConnection, requested: Sequence[NewVerification]) -> None:
    """Record what messages request, due at once. A message that was recorded before changes nothing."""
    await connection.execute(_ADD_VERIFICATIONS, [asdict(one) for one in requested])


async def claim_due(
    connection: AsyncConnection, subjects: Collection[str], limit: int, lease: timedelta
) -> list[ClaimedVerification]:
    """Claim due verifications. Users take turns, and the oldest of a user comes first."""
    values = {"subjects": list(subjects), "room": limit, "lease": lease, "lookahead": LOOKAHEAD}
    return [_claimed(row) for row in await connection.execute(_CLAIM_DUE, values)]


async def complete(connection: AsyncConnection, claim: Claim, result_subject: str) -> bool:
    """Close a verification with its result. False if another worker has claimed it since."""
    return await VERIFICATIONS.complete(connection, claim, answer=result_subject, answered_at=sa.func.now())


async def postpone(connection: AsyncConnection, claim: Claim, delay: timedelta, failed_files: Sequence[str]) -> bool:
    """Try again after ``delay`` and record ``failed_files``. False if another worker has claimed it since."""
    return await VERIFICATIONS.postpone(connection, claim, delay, failed_files=list(failed_files))


async def count_open(connection: AsyncConnection) -> OpenVerifications:
    """Count the verifications without a result."""
    age = sa.func.extract("epoch", sa.func.now() - sa.func.min(verifications.c.asked_at))
    statement = sa.select(sa.func.count(), sa.func.coalesce(age, 0)).where(verifications.c.next_try_at.is_not(None))
    count, seconds = (await connection.execute(statement)).one()
    return OpenVerifications(count, float(seconds))


async def find_assets(connection: AsyncConnection, generation_ids: Collection[UUID]) -> dict[UUID, AssetStored]:
    """The recorded outputs of these generations, as they are announced."""
    rows = await connection.execute(_FIND_ASSETS, {"generation_ids": list(generation_ids), "role": OUTPUT})
    return {row.generation_id: _announcement(row) for row in rows}


async def add_asset(connection: AsyncConnection, asset: AssetStored, requested: NewPreviews | None) -> RecordedAsset:
    """Record the output of a generation, unless it has one.

    If previews of it are ``requested``, they are due at once. If its user has deleted the generation, the file is to
    go: its deletion is due again.
    """
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
    values = {f"new_{name}": value for name, value in row.items()} | {"stored_generation_id": asset.generation_id}
    if requested is None:
        added = (await connection.execute(_ADD_ASSET, values)).one()
    else:
        values["previews_traceparent"] = requested.traceparent
        added = (await connection.execute(_ADD_PREVIEWED, values)).one()
    if added.asset_id is not None:
        return RecordedAsset(_announcement(added), is_deleted=added.is_deleted)
    existing = await find_assets(connection, [asset.generation_id])
    return RecordedAsset(existing[asset.generation_id], is_deleted=added.is_deleted)


async def put_upload(connection: AsyncConnection, upload: VerifiedUpload) -> None:
    """Record that a user's upload is a picture that models can start from, or record it anew."""
    statement = insert(uploads).values(
        upload_id=upload.upload_id,
        user_id=upload.user_id,
        object_key=upload.object_key,
        size_bytes=upload.size_bytes,
        sha256=upload.sha256,
        media=msgspec.to_builtins(upload.media),
    )
    statement = statement.on_conflict_do_update(
        index_elements=["upload_id"],
        set_={name: statement.excluded[name] for name in ("size_bytes", "sha256", "media")}
        | {"verified_at": sa.func.now()},
        where=uploads.c.user_id == statement.excluded.user_id,
    )
    await connection.execute(statement)


async def add_deletions(connection: AsyncConnection, requested: Sequence[NewDeletion]) -> None:
    """Record what users delete, due at once, and again if a newer message says it again."""
    statement = insert(deletions)
    newer = deletions.c.message_id < statement.excluded.message_id
    again = {name: statement.excluded[name] for name in ("message_id", "traceparent", "requested_at")} | _DUE_AGAIN
    statement = statement.on_conflict_do_update(index_elements=["generation_id"], set_=again, where=newer)
    for one in sorted(requested, key=lambda one: one.generation_id):
        await connection.execute(statement, asdict(one))


async def reopen_deletion(connection: AsyncConnection, generation_id: UUID) -> bool:
    """A file was stored: if its user has deleted the generation, the file is to go. Says whether that is so."""
    return (
        await connection.execute(_REOPEN_DELETION, {"stored_generation_id": generation_id})
    ).one_or_none() is not None


async def claim_deletions(connection: AsyncConnection, room: int, lease: timedelta) -> list[ClaimedDeletion]:
    """Claim due deletions, the oldest first."""
    key = deletions.c.generation_id
    due = sa.select(key).where(DELETIONS.due()).order_by(deletions.c.due_at)
    chosen = due.limit(room).with_for_update(skip_locked=True)
    claimed = sa.update(deletions).where(any_of(key, chosen)).values(DELETIONS.claim_values(lease))
    return [
        ClaimedDeletion(
            claim=DELETIONS.claim_of(row),
            generation_id=row.generation_id,
            user_id=row.user_id,
            message_id=row.message_id,
            traceparent=row.traceparent,
            requested_at=row.requested_at,
        )
        for row in await connection.execute(claimed.returning(deletions))
    ]


async def claim_previews(connection: AsyncConnection, room: int, lease: timedelta) -> list[ClaimedPreviews]:
    """Claim outputs whose previews are due. Users take turns, and the oldest of a user comes first."""
    claimed = (await connection.execute(_CLAIM_PREVIEWS, {"room": room, "lease": lease, "lookahead": LOOKAHEAD})).all()
    found = await _previewed(connection, [row.asset_id for row in claimed])
    return [
        ClaimedPreviews(
            PREVIEWS.claim_of(row), *found[row.asset_id], traceparent=row.traceparent, failures=row.failures
        )
        for row in claimed
    ]


async def end_previews(
    connection: AsyncConnection,
    claim: Claim,
    outcome: PreviewOutcome,
    reason: str | None,
    stored: PreviewsStored | None,
) -> bool:
    """The previews are made, or never will be. False if another worker has claimed them since."""
    return await PREVIEWS.complete(
        connection,
        claim,
        ended_at=sa.func.now(),
        outcome=outcome,
        reason=reason,
        thumbnails=None if stored is None else msgspec.to_builtins(stored.thumbnails),
        animated_preview=None if stored is None else msgspec.to_builtins(stored.animated_preview),
    )


async def measure_previews(connection: AsyncConnection) -> float:
    """How long the oldest output without previews has waited for them, in seconds."""
    age = sa.func.extract("epoch", sa.func.now() - sa.func.min(previews.c.requested_at))
    return float(await connection.scalar(sa.select(age).where(previews.c.due_at.is_not(None))) or 0.0)


async def complete_deletion(connection: AsyncConnection, claim: Claim, deleted_at: datetime) -> bool:
    """No file is there any more. False if another worker has claimed it since, or a file was stored since."""
    return await DELETIONS.complete(connection, claim, deleted_at=deleted_at)


async def measure_deletions(connection: AsyncConnection) -> float:
    """How long the oldest deletion has been open, in seconds."""
    age = sa.func.extract("epoch", sa.func.now() - sa.func.min(deletions.c.opened_at))
    return float(await connection.scalar(sa.select(age).where(deletions.c.due_at.is_not(None))) or 0.0)


async def _previewed(connection: AsyncConnection, asset_ids: Sequence[UUID]) -> dict[UUID, tuple[AssetStored, bool]]:
    rows = await connection.execute(_FIND_PREVIEWED, {"asset_ids": asset_ids}) if asset_ids else ()
    return {row.asset_id: (_announcement(row), row.is_deleted) for row in rows}


def _claimed(row: sa.Row[Any]) -> ClaimedVerification:
    return ClaimedVerification(
        claim=VERIFICATIONS.claim_of(row),
        message_id=row.message_id,
        subject=row.subject,
        generation_id=row.generation_id,
        user_id=row.user_id,
        payload=row.payload,
        traceparent=row.traceparent,
        failed_files=tuple(row.failed_files),
        requested_at=row.asked_at,
        has_output=row.has_output,
    )


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
