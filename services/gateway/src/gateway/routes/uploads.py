"""Uploading a picture to start a clip from."""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter

from contracts.object_keys import upload_key
from gateway import ordering, repository
from gateway.dependencies import CurrentParts, CurrentUser
from gateway.errors import RateLimited, TooManyUploads
from gateway.openapi import refusals
from gateway.representations import UploadRequest, UploadShown
from messaging.ids import new_id

router = APIRouter(tags=["uploads"])


@router.post(
    "/v1/uploads", operation_id="createUpload", status_code=201, responses=refusals(RateLimited, TooManyUploads)
)
async def create_upload(asked: UploadRequest, parts: CurrentParts, user: CurrentUser) -> UploadShown:
    """Get an address to PUT a picture to. It is looked at when a generation uses it."""
    upload_id = new_id()
    await ordering.check_write(parts, user)
    async with parts.transactions.begin() as tx:
        # So that what is counted next stays true.
        await repository.lock_allowance(tx.connection, user.user_id)
        limit = parts.settings.max_uploads_per_day
        if await repository.count_recent_uploads(tx.connection, user.user_id) >= limit:
            raise TooManyUploads(f"at most {limit} in 24 hours", headers={"Retry-After": "3600"})
        values = {
            "upload_id": upload_id,
            "user_id": user.user_id,
            "content_type": asked.content_type,
            "size_bytes": asked.size_bytes,
        }
        await repository.add_upload(tx.connection, values)
    validity = timedelta(seconds=parts.settings.upload_url_seconds)
    # The owner is part of the key. Size and type are part of the signature, and so is that nothing lies there yet: what
    # was looked at when it was ordered with cannot be exchanged before it is used.
    headers = {
        "Content-Type": asked.content_type,
        "Content-Length": str(asked.size_bytes),
        "If-None-Match": "*",
    }
    url = parts.urls.put(parts.settings.s3_uploads_bucket, upload_key(user.user_id, upload_id), validity, headers)
    return UploadShown(id=upload_id, url=url, headers=headers, expires_at=datetime.now(UTC) + validity)
