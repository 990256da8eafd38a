"""Presigned addresses of files: short-lived, and each for exactly one thing."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from contracts.object_keys import EXTENSIONS, upload_key
from contracts.storage import Preview
from gateway.records import NewUpload, StoredFile, StoredPreviews
from gateway.settings import Settings
from service_runtime.database_watch import DatabaseClock
from service_runtime.presigned_urls import PresignedUrls


@dataclass(frozen=True, slots=True)
class PreviewUrl:
    """Where a small picture can be read, as long as its file."""

    url: str
    preview: Preview


@dataclass(frozen=True, slots=True)
class DownloadUrls:
    """Where a file and its pictures can be read until ``expires_at``; ``save_url`` saves it as ``file_name``."""

    url: str
    save_url: str
    file_name: str
    poster_url: str
    thumbnails: tuple[PreviewUrl, ...]
    animated_preview: PreviewUrl | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class UploadUrl:
    """Where one file can be put until ``expires_at``, with exactly these ``headers``."""

    url: str
    headers: dict[str, str]
    expires_at: datetime


class FileUrls:
    """Signs addresses for files whose owner was checked before."""

    def __init__(self, settings: Settings, clock: DatabaseClock) -> None:
        self._clock = clock
        self._library = settings.s3_library_bucket
        self._uploads = settings.s3_uploads_bucket
        self._download_validity = timedelta(seconds=settings.download_url_seconds)
        self._upload_validity = timedelta(seconds=settings.upload_url_seconds)
        self._signer = PresignedUrls(
            settings.s3_public_endpoint_url or settings.s3_endpoint_url,
            settings.s3_region,
            settings.s3_access_key_id.get_secret_value(),
            settings.s3_secret_access_key.get_secret_value(),
            clock.now,
        )

    def download(self, file: StoredFile, previews: StoredPreviews, name: str) -> DownloadUrls:
        """Fresh addresses of a stored file, which is to be saved as ``name`` with the ending of its type."""
        validity = self._download_validity
        file_name = f"{name}.{EXTENSIONS[file.media.content_type]}"
        return DownloadUrls(
            url=self._signer.get(self._library, file.object_key, validity),
            save_url=self._signer.get(self._library, file.object_key, validity, file_name=file_name),
            file_name=file_name,
            poster_url=self._signer.get(self._library, file.poster_object_key, validity),
            thumbnails=tuple(map(self._preview, previews.thumbnails)),
            animated_preview=None if previews.animated_preview is None else self._preview(previews.animated_preview),
            expires_at=self._now() + validity,
        )

    def _preview(self, preview: Preview) -> PreviewUrl:
        return PreviewUrl(self._signer.get(self._library, preview.object_key, self._download_validity), preview)

    def upload(self, upload: NewUpload) -> UploadUrl:
        """The address that takes the announced file, once.

        Size and type are part of the signature. So is ``If-None-Match``: a file that was checked when it was ordered
        with cannot be replaced before it is used.
        """
        headers = {
            "Content-Type": upload.content_type,
            "Content-Length": str(upload.size_bytes),
            "If-None-Match": "*",
        }
        key = upload_key(upload.user_id, upload.upload_id)
        url = self._signer.put(self._uploads, key, self._upload_validity, headers)
        return UploadUrl(url, headers, self._now() + self._upload_validity)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)
