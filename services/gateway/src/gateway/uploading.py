"""Beginning an upload: counted, written down, and given a signed address."""

from gateway import repository
from gateway.dependencies import Dependencies
from gateway.domain import User
from gateway.limits import check_upload, check_write
from gateway.records import NewUpload
from messaging.ids import new_id


async def begin_upload(dependencies: Dependencies, user: User, content_type: str, size_bytes: int) -> NewUpload:
    """Write down that the user may upload one file. Raises ``RateLimited`` and what ``check_upload`` raises."""
    await check_write(dependencies, user)
    upload = NewUpload(new_id(), user.user_id, content_type, size_bytes)
    async with dependencies.transactions.begin() as tx:
        await check_upload(tx, dependencies.settings, user, size_bytes)
        await repository.add_upload(tx.connection, upload)
    return upload
