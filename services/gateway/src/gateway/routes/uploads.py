"""Uploading a picture to start a clip from."""

from fastapi import APIRouter

from gateway import uploading
from gateway.errors import TooManyUploads, UploadsNeedCredits
from gateway.json_bodies import JsonRoute
from gateway.openapi import refusals
from gateway.representations import Upload
from gateway.request_bodies import UploadRequest
from gateway.routes.request_context import CurrentDependencies, CurrentUser

router = APIRouter(tags=["uploads"], route_class=JsonRoute)


@router.post(
    "/v1/uploads",
    operation_id="createUpload",
    status_code=201,
    responses=refusals(UploadsNeedCredits, TooManyUploads),
)
async def create_upload(body: UploadRequest, dependencies: CurrentDependencies, user: CurrentUser) -> Upload:
    """Get an address to PUT a picture to. The picture is checked when a generation uses it."""
    upload = await uploading.begin_upload(dependencies, user, body.content_type, body.size_bytes)
    address = dependencies.file_urls.upload(upload)
    return Upload(id=upload.upload_id, url=address.url, headers=address.headers, expires_at=address.expires_at)
