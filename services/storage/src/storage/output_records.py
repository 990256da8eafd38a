"""The SQL that records an output: it ends the verification, and the generation has its file."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.storage import AssetStored
from messaging.failpoints import failpoint
from messaging.leases import Claim
from messaging.outbox import ADD_MESSAGES
from messaging.sql import hot_statement
from service_runtime.statements import Statement
from storage.repository import DUE_AGAIN, OUTPUT, announcement_of, find_assets
from storage.tables import SCHEMA, VERIFICATIONS


@dataclass(frozen=True, slots=True)
class NewPreviews:
    """Small pictures are to be made of an output, in the trace of its verification."""

    traceparent: str | None


@dataclass(frozen=True, slots=True)
class RecordedAsset:
    """The output of a generation as it is recorded. ``is_deleted``: its user has deleted the generation."""

    asset: AssetStored
    is_deleted: bool


_ADD_ASSET: Final = f"""
        INSERT INTO storage.assets (
            asset_id, generation_id, role, user_id, attempt_id, attempt_number, object_key, poster_object_key,
            size_bytes, sha256, media, stored_at)
        SELECT
            CAST(:asset_id AS uuid), CAST(:generation_id AS uuid), '{OUTPUT}', CAST(:user_id AS uuid),
            CAST(:attempt_id AS uuid), CAST(:attempt_number AS integer), CAST(:object_key AS text),
            CAST(:poster_object_key AS text), CAST(:size_bytes AS bigint), CAST(:sha256 AS text),
            CAST(:media AS jsonb), coalesce(CAST(:stored_at AS timestamptz), now())"""
_REQUEST_PREVIEWS: Final = """requested AS (
        INSERT INTO storage.previews (asset_id, generation_id, user_id, traceparent)
        SELECT asset_id, generation_id, user_id, CAST(:traceparent AS text) FROM added
        WHERE CAST(:with_previews AS boolean)
    )"""
RECORD_FIRST_OUTPUT: Final = hot_statement(
    SCHEMA,
    f"""
    WITH held AS (
        SELECT v.message_id FROM storage.verifications AS v
        WHERE v.message_id = :message_id AND {VERIFICATIONS.held_sql("v")} FOR UPDATE
    ), added AS (
        {_ADD_ASSET} FROM held
        ON CONFLICT DO NOTHING
        RETURNING asset_id, generation_id, user_id
    ), completed AS (
        UPDATE storage.verifications AS v
        SET {VERIFICATIONS.complete_sql()}, answer = :answer, answered_at = now()
        WHERE v.message_id = :message_id AND EXISTS (SELECT FROM added)
    ), {_REQUEST_PREVIEWS}, reopened AS (
        UPDATE storage.deletions AS d SET {DUE_AGAIN}
        WHERE d.generation_id = :generation_id AND EXISTS (SELECT FROM added)
        RETURNING d.generation_id
    ), announced AS ({ADD_MESSAGES} WHERE EXISTS (SELECT FROM added))
    SELECT (SELECT now() FROM added) AS announced_at, EXISTS (SELECT FROM reopened) AS is_deleted
    FROM held
""",  # noqa: S608 - the insertions are constants
)
"""What ``record_output`` does, and the announcement, for ``Transactions.announce``: if the claim stands and the
generation has no output yet. Otherwise it changes nothing."""
# A conflict of any constraint: with a target, two that come at the same instant can meet at the key of the object.
# No row: the claim does not stand. Without an asset in it: the generation has one.
_RECORD_OUTPUT: Final = Statement(f"""
    WITH completed AS (
        UPDATE storage.verifications AS v
        SET {VERIFICATIONS.complete_sql()}, answer = :answer, answered_at = now()
        WHERE v.message_id = :message_id AND {VERIFICATIONS.held_sql("v")}
        RETURNING v.message_id
    ), added AS (
        {_ADD_ASSET} FROM completed
        ON CONFLICT DO NOTHING
        RETURNING *
    ), {_REQUEST_PREVIEWS}, reopened AS (
        UPDATE storage.deletions AS d SET {DUE_AGAIN}
        WHERE d.generation_id = :generation_id AND EXISTS (SELECT FROM completed)
        RETURNING d.generation_id
    )
    SELECT added.*, EXISTS (SELECT FROM reopened) AS is_deleted
    FROM completed LEFT JOIN added ON true
""")  # noqa: S608 - the insertions are constants


async def record_output(
    connection: AsyncConnection, claim: Claim, asset: AssetStored, requested: NewPreviews | None
) -> RecordedAsset | None:
    """Close a verification with the output of its generation, and record that, unless the generation has one.

    None if another worker has claimed the verification since: then nothing is changed. If previews are ``requested``,
    they are due at once. If the user has deleted the generation, the file is to go: its deletion is due again.
    """
    failpoint("lease.before_complete")
    added = await _RECORD_OUTPUT.fetch_one(connection, output_values(claim, asset, requested, None))
    if added is None:
        return None
    if added["asset_id"] is not None:
        return RecordedAsset(announcement_of(added), is_deleted=added["is_deleted"])
    existing = await find_assets(connection, [asset.generation_id])
    return RecordedAsset(existing[asset.generation_id], is_deleted=added["is_deleted"])


def output_values(
    claim: Claim, asset: AssetStored, requested: NewPreviews | None, stored_at: datetime | None
) -> dict[str, Any]:
    """Parameters of the statements that record an output. Without ``stored_at`` it is the time of the transaction."""
    (message_id,) = claim.key
    return {
        "message_id": message_id,
        "fence": claim.fence,
        "answer": AssetStored.subject,
        "asset_id": asset.asset_id,
        "generation_id": asset.generation_id,
        "user_id": asset.user_id,
        "attempt_id": asset.attempt_id,
        "attempt_number": asset.attempt_number,
        "object_key": asset.object_key,
        "poster_object_key": asset.poster_object_key,
        "size_bytes": asset.size_bytes,
        "sha256": asset.sha256,
        "stored_at": stored_at,
        "media": msgspec.json.encode(asset.media).decode(),
        "with_previews": requested is not None,
        "traceparent": None if requested is None else requested.traceparent,
    }
