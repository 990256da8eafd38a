"""What a user may do in a while, counted in PostgreSQL by its clock: so for all replicas together."""

from datetime import datetime
from typing import Final
from uuid import UUID

from contracts.values import Lane
from gateway import repository
from gateway.dependencies import Dependencies
from gateway.domain import User
from gateway.errors import RateLimited, TooManyUploads, UploadsNeedCredits
from gateway.metrics import REFUSED
from gateway.rate_limit_headers import Allowance, Limit, report
from gateway.records import GenerationRequestRecord
from gateway.settings import Settings
from messaging.database import single_statements
from messaging.transaction import Transaction

DAY_SECONDS: Final = 86_400
_RETRY_UPLOADS_SECONDS: Final = 3_600


def running_cancels(settings: Settings, lane: Lane) -> Limit:
    """How much running work a user of this plan may cancel."""
    return Limit("running-cancels", settings.running_cancels_per_day[lane], DAY_SECONDS)


async def check_write(dependencies: Dependencies, user: User) -> None:
    """Take one of the writes that a user has each minute; refused ones count, too. Raises ``RateLimited``."""
    limit = _writes(dependencies.settings)
    async with single_statements(dependencies.engine) as connection:
        tokens = await repository.take_write(connection, user.user_id, limit.quota)
    _report_writes(limit, tokens)


async def find_request_or_check_write(
    tx: Transaction, settings: Settings, user: User, key: str, count: int
) -> GenerationRequestRecord | datetime:
    """The order that used this key; or, like :func:`check_write`, ``count`` writes of a new one, and the time of that.

    From then on the user's lock is held until the transaction ends. Commit it also if the order is refused later.
    """
    limit = _writes(settings)
    found = await repository.find_request_or_take_write(
        tx.connection, user.user_id, key, limit.quota, min(count, limit.quota)
    )
    if isinstance(found, GenerationRequestRecord):
        return found
    _report_writes(limit, found.tokens)
    return found.at


def _writes(settings: Settings) -> Limit:
    return Limit("writes", settings.writes_per_minute, 60)


def _report_writes(limit: Limit, tokens: float | None) -> None:
    report(Allowance(limit, int(tokens or 0), limit.refill_seconds))
    if tokens is None:
        REFUSED.labels(limit.name).inc()
        raise RateLimited(f"at most {limit.quota} a minute", headers={"Retry-After": str(limit.refill_seconds)})


async def check_start_limit(tx: Transaction, settings: Settings, user: User, generation_id: UUID) -> None:
    """Whether the user may give an order a time to begin: that is a cancel in advance, and counts like one.

    The user's lock keeps the answer true until the commit. Raises ``RateLimited``.
    """
    limit = running_cancels(settings, user.lane)
    made = await repository.count_running_cancels(tx.connection, user.user_id, generation_id, limit.window_seconds)
    report(Allowance(limit, limit.quota - made.count, made.seconds_to_next))
    if made.count >= limit.quota:
        REFUSED.labels(limit.name).inc()
        raise RateLimited(
            f"{limit.quota} cancels of running work in 24 hours are used up: order without start_within_seconds",
            headers={"Retry-After": str(made.seconds_to_next)},
        )


async def check_upload(tx: Transaction, settings: Settings, user: User, size_bytes: int) -> None:
    """Whether the user may upload so much more. The user's lock keeps the answer true until the commit.

    Raises ``TooManyUploads``, and ``UploadsNeedCredits`` where uploads are only for users who ever had credits.
    """
    await repository.lock_allowance(tx.connection, user.user_id)
    if settings.uploads_need_credits and not await repository.has_had_credits(tx.connection, user.user_id):
        raise UploadsNeedCredits
    recent = await repository.recent_uploads(tx.connection, user.user_id)
    count = Limit("uploads", settings.max_uploads_per_day, DAY_SECONDS)
    size = Limit("upload-bytes", settings.max_upload_bytes_per_day, DAY_SECONDS, "content-bytes")
    for limit, used, more in ((count, recent.count, 1), (size, recent.size_bytes, size_bytes)):
        fits = used + more <= limit.quota
        report(Allowance(limit, limit.quota - used - (more if fits else 0), _RETRY_UPLOADS_SECONDS))
        if not fits:
            REFUSED.labels(limit.name).inc()
            what = "uploads" if limit is count else "bytes"
            raise TooManyUploads(
                f"at most {limit.quota} {what} in 24 hours", headers={"Retry-After": str(_RETRY_UPLOADS_SECONDS)}
            )
