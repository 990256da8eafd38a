"""Previews: small pictures of an output for lists and galleries, made after it was stored.

They are leased work, requested by the transaction that records the output. Nothing waits for them, so they are made at
a low priority and one at a time, and an output without them is as good as any: what cannot be made is given up.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.object_keys import animated_preview_key, thumbnail_key
from contracts.storage import AssetStored, Preview, PreviewsStored
from contracts.values import Kind
from messaging.database import is_unavailable
from messaging.failpoints import failpoint
from messaging.leased_worker import LeasedWorker
from messaging.transaction import Transactions
from service_runtime.backoff import Backoff
from service_runtime.tracing import Origin
from storage import repository
from storage.decoders import Decoders
from storage.decoding import RenderedPreview
from storage.domain import MAX_OUTPUT_PIXELS
from storage.due_work import SELDOM
from storage.errors import DecoderFailed, DecoderNotStarted, Rejected, SignerUnavailable, StoreUnavailable, Unmarkable
from storage.metrics import (
    PreviewOutcome,
    oldest_preview_seconds,
    preview_failures_total,
    preview_seconds,
    previews_total,
)
from storage.object_store import ObjectStore
from storage.repository import ClaimedPreviews
from storage.tables import PREVIEWS
from storage.workspace import temporary_path

CONTENT_TYPE: Final = "image/webp"
MAX_FAILURES: Final = 3
"""So many tries may fail for a reason of their own. Waiting for what is away is no failure."""
BACKOFF: Final = Backoff(first=timedelta(seconds=5), longest=timedelta(minutes=10))
MAX_WORK_SECONDS: Final = 900.0
"""A large output on a slow store, and a decoder that gets little of a busy processor."""

log = structlog.get_logger(__name__)


class Previews:
    """Previews as leased work. ``decoders`` have a low priority; outputs lie in ``workspace`` meanwhile.

    ``wake_deletions`` is called when previews were written whose user has deleted the generation. ``now`` is the time
    that is announced, in seconds since 1970.
    """

    def __init__(
        self,
        transactions: Transactions,
        store: ObjectStore,
        decoders: Decoders,
        workspace: Path,
        library: str,
        wake_deletions: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._transactions = transactions
        self._store = store
        self._decoders = decoders
        self._workspace = workspace
        self._library = library
        self._wake_deletions = wake_deletions
        self._now = now

    def worker(self, poll_seconds: float, wake: asyncio.Event) -> LeasedWorker[ClaimedPreviews]:
        """The component that makes them."""
        return LeasedWorker(
            "previews",
            self._transactions,
            PREVIEWS,
            self.claim,
            self.work,
            concurrency=1,
            poll_seconds=poll_seconds * SELDOM,
            retry_seconds=poll_seconds,
            timeout_seconds=MAX_WORK_SECONDS,
            backoff=BACKOFF,
            wake=wake,
            origin=lambda one: Origin(one.traceparent, one.asset.generation_id, one.asset.user_id),
        )

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[ClaimedPreviews]:
        """Claim due previews."""
        return await repository.claim_previews(connection, room, lease)

    async def work(self, claimed: ClaimedPreviews) -> None:
        """Make the previews of one output and announce them; or postpone them, or give them up."""
        if claimed.is_deleted:
            await self._end(claimed, "deleted")
            return
        began = time.monotonic()
        try:
            stored = await self.write_previews(claimed.asset)
        except (StoreUnavailable, SignerUnavailable, DecoderNotStarted, OSError) as error:
            await self._postpone(claimed, error, claimed.failures)
        except Exception as error:
            if is_unavailable(error):
                raise
            await self._fail(claimed, error)
        else:
            preview_seconds.observe(time.monotonic() - began)
            await self._end(claimed, "stored", stored=stored)

    async def write_previews(self, asset: AssetStored) -> PreviewsStored:
        """Make the previews of an output and write each of them, once. Raises what keeps it from that."""
        kind: Kind = "image" if asset.media.duration_ms is None else "video"
        with temporary_path(self._workspace) as path:
            fetched = await self._store.fetch(self._library, asset.object_key, path, asset.size_bytes)
            if fetched.sha256 != asset.sha256:
                raise Rejected("checksum_mismatch", "the file in the library is not the one that was stored")
            rendered = await self._decoders.render_previews(path, kind, MAX_OUTPUT_PIXELS)
        stored = [(one.role, await self._put(asset, one)) for one in rendered]
        failpoint("storage.after_previews")
        moving = [preview for role, preview in stored if role == "animated"]
        return PreviewsStored(
            generation_id=asset.generation_id,
            user_id=asset.user_id,
            asset_id=asset.asset_id,
            thumbnails=tuple(preview for role, preview in stored if role == "thumbnail"),
            animated_preview=moving[0] if moving else None,
            stored_at=datetime.fromtimestamp(self._now(), UTC),
        )

    async def _put(self, asset: AssetStored, rendered: RenderedPreview) -> Preview:
        """Write one, once. If a try before this one wrote it, that one stays: it differs by its mark."""
        key, body = _key(asset, rendered), rendered.body
        checksum, size_bytes = sha256(body).hexdigest(), len(body)
        existing = await self._store.put_once(key, body, checksum, CONTENT_TYPE, {"size-bytes": str(size_bytes)})
        if existing is not None:
            checksum, size_bytes = existing.sha256, int(existing.metadata["size-bytes"])
        return Preview(
            object_key=key,
            content_type=CONTENT_TYPE,
            width_pixels=rendered.width_pixels,
            height_pixels=rendered.height_pixels,
            size_bytes=size_bytes,
            sha256=checksum,
        )

    async def _fail(self, claimed: ClaimedPreviews, error: Exception) -> None:
        """The try failed for a reason of its own: the file, the decoder, or a bug."""
        preview_failures_total.inc()
        if not isinstance(error, (Rejected, DecoderFailed, Unmarkable)):
            log.error("previews_failed", generation_id=str(claimed.asset.generation_id), exc_info=error)
        failures = claimed.failures + 1
        if failures < MAX_FAILURES:
            await self._postpone(claimed, error, failures)
            return
        log.warning("previews_given_up", generation_id=str(claimed.asset.generation_id), reason=_reason(error))
        await self._end(claimed, "given_up", _reason(error))

    async def _postpone(self, claimed: ClaimedPreviews, error: Exception, failures: int) -> None:
        log.info("previews_postponed", generation_id=str(claimed.asset.generation_id), reason=_reason(error))
        claim = claimed.claim
        delay = BACKOFF.delay(claim.tries, claim.key)
        async with self._transactions.begin() as tx:
            await PREVIEWS.postpone(tx.connection, claim, delay, failures=failures, reason=_reason(error))

    async def _end(
        self,
        claimed: ClaimedPreviews,
        outcome: PreviewOutcome,
        reason: str | None = None,
        stored: PreviewsStored | None = None,
    ) -> None:
        """Record the outcome. If the user has deleted the generation, what this or an earlier claim wrote goes, too."""
        async with self._transactions.begin() as tx:
            if not await repository.end_previews(tx.connection, claimed.claim, outcome, reason, stored):
                return
            tx.after_commit(previews_total.labels(outcome).inc)
            may_have_written = outcome != "deleted" or claimed.claim.fence > 1
            if may_have_written and await repository.reopen_deletion(tx.connection, claimed.asset.generation_id):
                tx.after_commit(self._wake_deletions)
            elif stored is not None:
                tx.publish(stored, correlation_id=stored.generation_id)


def _key(asset: AssetStored, rendered: RenderedPreview) -> str:
    if rendered.role == "animated":
        return animated_preview_key(asset.user_id, asset.generation_id, asset.sha256)
    longest = max(rendered.width_pixels, rendered.height_pixels)
    return thumbnail_key(asset.user_id, asset.generation_id, asset.sha256, longest)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


async def measure(transactions: Transactions) -> None:
    """Set the gauge."""
    async with transactions.begin() as tx:
        oldest_preview_seconds.set(await repository.measure_previews(tx.connection))
