"""All SQL of storage. Statements that run for every file are built once."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.storage import AssetStored, PreviewsStored
from contracts.values import MediaProperties
from messaging.leases import LEASE, Claim, LeasedTable, any_of
from messaging.outbox import Writes
from messaging.transaction import Transaction
from service_runtime.statements import Record, Statement
from storage.domain import VerifiedUpload
from storage.metrics import PreviewOutcome
from storage.tables import DELETIONS, PREVIEWS, VERIFICATIONS, deletions, uploads, verifications

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
    claimed_at: datetime
    """By the database's clock."""
    _claimed_monotonic: float = field(default_factory=time.monotonic, repr=False)

    def now(self) -> datetime:
        """The time at the database, by what has passed here since the claim. The clock of the host may be wrong."""
        return self.claimed_at + timedelta(seconds=time.monotonic() - self._claimed_monotonic)


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
class ClaimedPreviews:
    """An output of which a worker is to make previews. ``is_deleted``: its user has deleted the generation.

    ``failures`` counts the tries that failed for a reason of their own.
    """

    claim: Claim
    asset: AssetStored
    is_deleted: bool
    traceparent: str | None
    failures: int


@dataclass(frozen=True, slots=True)
class Due:
    """The kinds of work of which a row is due; it may be locked."""

    outputs: bool
    inputs: bool
    deletions: bool
    previews: bool


# Not EXISTS, of which the planner could make a list of all outputs.
_HAS_OUTPUT_SQL: Final = f"""(
    SELECT true FROM storage.assets AS a WHERE a.generation_id = v.generation_id AND a.role = '{OUTPUT}' LIMIT 1
) IS NOT NULL"""  # noqa: S608 - the insertion is a constant
_ADD_VERIFICATIONS: Final = Writes(
    f"""
    requested AS (
    INSERT INTO storage.verifications (
        message_id, subject, generation_id, user_id, payload, traceparent, next_try_at, leased_until, fence, tries)
    SELECT message_id, subject, generation_id, user_id, payload, traceparent, now(),
           CASE WHEN is_claimed THEN now() + CAST(:lease AS interval) END, CAST(is_claimed AS integer),
           CAST(is_claimed AS integer)
    FROM unnest(
        CAST(:message_ids AS uuid[]), CAST(:subjects AS text[]), CAST(:generation_ids AS uuid[]),
        CAST(:user_ids AS uuid[]), CAST(:payloads AS bytea[]), CAST(:traceparents AS text[])
    ) AS v (message_id, subject, generation_id, user_id, payload, traceparent)
    CROSS JOIN LATERAL (SELECT CAST(:lease AS interval) IS NOT NULL AND NOT {_HAS_OUTPUT_SQL}) AS c (is_claimed)
    ON CONFLICT DO NOTHING
    RETURNING message_id, leased_until
    )""",  # noqa: S608 - the insertion is a constant
    "now(), ARRAY(SELECT message_id FROM requested WHERE leased_until IS NOT NULL)",
)


def _claim_in_turns(work: LeasedTable, among: str = "", flag: str = "") -> Statement:
    """The claim of due rows in which users take turns, the oldest row of each first. ``among`` is a condition.

    ``flag`` is returned with each row.

    The first turn of each user comes before the second turn of any user. Rows in progress count as turns that were
    taken. So a user with many or with slow files delays others only by the files in progress.

    Rows are locked by their key, in the order of ``t``, until there are enough. ``coalesce`` hides the condition from
    the planner: by the statistics of an empty queue it would walk the index of due rows for each of them.
    """
    table, due_at = work.table.fullname, work.due_at
    (key,) = (column.name for column in work.table.primary_key)
    return Statement(f"""
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
        RETURNING v.*{flag}
    """)  # noqa: S608 - all parts are constants


_HAS_OUTPUT: Final = f", {_HAS_OUTPUT_SQL} AS has_output"
_CLAIM_DUE: Final = _claim_in_turns(VERIFICATIONS, "subject = ANY(CAST(:subjects AS text[])) AND", _HAS_OUTPUT)
_CLAIM_PREVIEWS: Final = _claim_in_turns(PREVIEWS)

# With another fence: a worker that is at it may have passed the new file by, and cannot record that all are gone.
DUE_AGAIN: Final = """
    opened_at = now(), due_at = now(), leased_until = NULL, fence = d.fence + 1, tries = 0, deleted_at = NULL
"""
_REOPEN_DELETION: Final = Statement(f"""
    UPDATE storage.deletions AS d SET {DUE_AGAIN} WHERE d.generation_id = :generation_id
""")  # noqa: S608 - the insertion is a constant
_ADD_DELETION: Final = Statement(f"""
    INSERT INTO storage.deletions AS d (generation_id, user_id, message_id, traceparent, requested_at)
    VALUES (:generation_id, :user_id, :message_id, :traceparent, :requested_at)
    ON CONFLICT (generation_id) DO UPDATE
    SET message_id = excluded.message_id, traceparent = excluded.traceparent, requested_at = excluded.requested_at,
        {DUE_AGAIN}
    WHERE d.message_id < excluded.message_id
""")  # noqa: S608 - the insertion is a constant

_FIND_ASSETS: Final = Statement(f"""
    SELECT * FROM storage.assets WHERE generation_id = ANY (CAST(:generation_ids AS uuid[])) AND role = '{OUTPUT}'
""")  # noqa: S608 - the insertion is a constant
_FIND_PREVIEWED: Final = Statement("""
    SELECT a.*, coalesce(
        (SELECT true FROM storage.deletions AS d WHERE d.generation_id = a.generation_id LIMIT 1), false) AS is_deleted
    FROM storage.assets AS a WHERE a.asset_id = ANY (CAST(:asset_ids AS uuid[]))
""")


def _is_due(work: LeasedTable, condition: str = "true") -> str:
    """Whether a row may be claimed now. The order leads to the index, also where the planner knows nothing."""
    rows = f"{work.table.fullname} AS due WHERE {condition} AND {work.due_sql('due')}"
    first = f"SELECT true FROM {rows} ORDER BY due.{work.due_at} LIMIT 1"  # noqa: S608 - names of tables and columns
    return f"({first}) IS NOT NULL"


_FIND_DUE: Final = Statement(f"""
    SELECT {_is_due(VERIFICATIONS, "due.subject = ANY(CAST(:outputs AS text[]))")},
           {_is_due(VERIFICATIONS, "due.subject = ANY(CAST(:inputs AS text[]))")},
           {_is_due(DELETIONS)}, {_is_due(PREVIEWS)}
""")


# The first of them stand at the beginning of the index. Of all of them, the planner would read the table whole where it
# knows nothing of it.
_OLDEST_PREVIEWS: Final = sa.text("""
    SELECT coalesce(extract(epoch FROM now() - min(requested_at)), 0)
    FROM (SELECT requested_at FROM storage.previews WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 100) AS open
""")


async def find_due(connection: AsyncConnection, outputs: Sequence[str], inputs: Sequence[str]) -> Due:
    """What there may be to do, of the verifications by their subjects."""
    (found,) = await _FIND_DUE.fetch(connection, {"outputs": outputs, "inputs": inputs})
    return Due(*found)


async def add_verifications(tx: Transaction, requested: Sequence[NewVerification]) -> None:
    """Record what messages request, due at once, with the checkpoint. A message that was recorded changes nothing."""
    await tx.write_last(_ADD_VERIFICATIONS, _new_values(requested, None))


async def add_claimed_verifications(
    tx: Transaction, requested: Sequence[NewVerification], begin: Callable[[Sequence[ClaimedVerification]], None]
) -> None:
    """:func:`add_verifications`, but claimed by the caller: ``begin`` is called with the claims after the commit.

    Those whose generation has an output already are due, and not claimed.
    """

    def claimed(result: Sequence[Any]) -> None:
        now, message_ids = result
        new = {one.message_id: one for one in requested}
        begin([_claimed_as_new(new[message_id], now) for message_id in message_ids])

    await tx.write_last(_ADD_VERIFICATIONS, _new_values(requested, LEASE), claimed)


def _new_values(requested: Sequence[NewVerification], lease: timedelta | None) -> dict[str, object]:
    return {
        "lease": lease,
        "message_ids": [one.message_id for one in requested],
        "subjects": [one.subject for one in requested],
        "generation_ids": [one.generation_id for one in requested],
        "user_ids": [one.user_id for one in requested],
        "payloads": [one.payload for one in requested],
        "traceparents": [one.traceparent for one in requested],
    }


def _claimed_as_new(new: NewVerification, now: datetime) -> ClaimedVerification:
    return ClaimedVerification(
        claim=Claim((new.message_id,), fence=1, tries=1),
        message_id=new.message_id,
        subject=new.subject,
        generation_id=new.generation_id,
        user_id=new.user_id,
        payload=new.payload,
        traceparent=new.traceparent,
        failed_files=(),
        requested_at=now,
        has_output=False,
        claimed_at=now,
    )


async def claim_due(
    connection: AsyncConnection, subjects: Collection[str], limit: int, lease: timedelta
) -> list[ClaimedVerification]:
    """Claim due verifications. Users take turns, and the oldest of a user comes first."""
    values = {"subjects": list(subjects), "room": limit, "lease": lease, "lookahead": LOOKAHEAD}
    return [_claimed(row, lease) for row in await _CLAIM_DUE.fetch(connection, values)]


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
    rows = await _FIND_ASSETS.fetch(connection, {"generation_ids": list(generation_ids)})
    return {row["generation_id"]: announcement_of(row) for row in rows}


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
    for one in sorted(requested, key=lambda one: one.generation_id):
        await _ADD_DELETION.execute(connection, asdict(one))


async def reopen_deletion(connection: AsyncConnection, generation_id: UUID) -> bool:
    """A file was stored: if its user has deleted the generation, the file is to go. Says whether that is so."""
    return await _REOPEN_DELETION.execute(connection, {"generation_id": generation_id}) == 1


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
    claimed = await _CLAIM_PREVIEWS.fetch(connection, {"room": room, "lease": lease, "lookahead": LOOKAHEAD})
    found = await _previewed(connection, [row["asset_id"] for row in claimed])
    return [
        ClaimedPreviews(
            PREVIEWS.claim_of(row),
            *found[row["asset_id"]],
            traceparent=row["traceparent"],
            failures=row["failures"],
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
    """How long the oldest output without previews has waited for them, in seconds: of those that are due first."""
    return float(await connection.scalar(_OLDEST_PREVIEWS))


async def complete_deletion(connection: AsyncConnection, claim: Claim, deleted_at: datetime) -> bool:
    """No file is there any more. False if another worker has claimed it since, or a file was stored since."""
    return await DELETIONS.complete(connection, claim, deleted_at=deleted_at)


async def measure_deletions(connection: AsyncConnection) -> float:
    """How long the oldest deletion has been open, in seconds."""
    age = sa.func.extract("epoch", sa.func.now() - sa.func.min(deletions.c.opened_at))
    return float(await connection.scalar(sa.select(age).where(deletions.c.due_at.is_not(None))) or 0.0)


async def _previewed(connection: AsyncConnection, asset_ids: Sequence[UUID]) -> dict[UUID, tuple[AssetStored, bool]]:
    rows = await _FIND_PREVIEWED.fetch(connection, {"asset_ids": asset_ids}) if asset_ids else ()
    return {row["asset_id"]: (announcement_of(row), row["is_deleted"]) for row in rows}


def _claimed(row: Record, lease: timedelta) -> ClaimedVerification:
    return ClaimedVerification(
        claim=VERIFICATIONS.claim_of(row),
        message_id=row["message_id"],
        subject=row["subject"],
        generation_id=row["generation_id"],
        user_id=row["user_id"],
        payload=row["payload"],
        traceparent=row["traceparent"],
        failed_files=tuple(row["failed_files"]),
        requested_at=row["asked_at"],
        has_output=row["has_output"],
        claimed_at=row["leased_until"] - lease,
    )


def announcement_of(row: Record) -> AssetStored:
    return AssetStored(
        asset_id=row["asset_id"],
        generation_id=row["generation_id"],
        user_id=row["user_id"],
        attempt_id=row["attempt_id"],
        attempt_number=row["attempt_number"],
        object_key=row["object_key"],
        poster_object_key=row["poster_object_key"],
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        media=msgspec.convert(row["media"], MediaProperties),
        stored_at=row["stored_at"],
    )
