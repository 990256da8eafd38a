"""Beginning an upload: counted, written down, and given a signed address."""

from gateway import repository
from gateway.dependencies import Dependencies
from gateway.domain import User
from gateway.errors import TooManyUploads
from gateway.limits import check_write
from gateway.records import NewUpload
from messaging.ids import new_id


async def begin_upload(dependencies: Dependencies, user: User, content_type: str, size_bytes: int) -> NewUpload:
    """Write down that the user may upload one file. Raises ``RateLimited`` and ``TooManyUploads``."""
    await check_write(dependencies, user)
    upload = NewUpload(new_id(), user.user_id, content_type, size_bytes)
    limit = dependencies.settings.max_uploads_per_day
    async with dependencies.transactions.begin() as tx:
        # So that the count stays true until the commit.
        await repository.lock_allowance(tx.connection, user.user_id)
        if await repository.count_recent_uploads(tx.connection, user.user_id) >= limit:
            raise TooManyUploads(f"at most {limit} in 24 hours", headers={"Retry-After": "3600"})
        await repository.add_upload(tx.connection, upload)
    return upload
