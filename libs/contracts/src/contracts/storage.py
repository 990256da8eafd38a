"""What storage announces, and the commands it takes."""

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar, Final, Literal
from uuid import UUID

import msgspec

from contracts.message import Message, Service
from contracts.values import MediaProperties

DIGITAL_SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""What generative models make, in the vocabulary of the IPTC. Every delivered file says so."""

RejectionCode = Literal[
    "not_found",  # no object under the stated key
    "size_mismatch",  # other than stated, or larger than allowed
    "checksum_mismatch",
    "undecodable",  # truncated, or no picture or video at all
    "wrong_kind",  # a picture where a video was asked for, or the other way round
    "wrong_dimensions",
    "wrong_format",  # a container, codec or pixel format other than ordered, or one that is not read at all
    "animated",  # a picture that moves, where one still picture is needed
]

REJECTION_SENTENCES: Final[Mapping[RejectionCode, str]] = {
    "not_found": "The file is not there. Upload it again.",
    "size_mismatch": "The file is larger than an upload may be.",
    "checksum_mismatch": "The file changed while it was uploaded. Upload it again.",
    "undecodable": "The file is damaged, incomplete or too large to be read. Save it again with another program.",
    "wrong_kind": "The file is a clip where a picture is needed, or a picture where a clip is needed.",
    "wrong_dimensions": "The clip is shorter than ordered, or its pictures differ in size or are too many.",
    "wrong_format": "The file has a format that we do not read. Pictures can be PNG, JPEG or WebP, clips MP4.",
    "animated": "The picture moves. Choose one that stands still.",
}
"""What a customer reads about an upload. The details of decoders are for operators."""


class VerifyInputs(Message, frozen=True, kw_only=True):
    """A queued order starts from files that its user uploaded: check that they exist and can be used.

    ``uploads`` maps the parameter's name to the upload; its object key is
    ``object_keys.upload_key``, so that an upload of another user cannot be named.
    ``clips`` are the parameters that must be clips; all others must be pictures.
    ``clip_duration_ms`` is how much of a clip the order uses: it must be as long. None where a release did not say it.
    """

    subject: ClassVar[str] = "storage.command.verify-inputs.v1"
    producers: ClassVar[tuple[Service, ...]] = ("generation",)
    consumers: ClassVar[tuple[Service, ...]] = ("storage", "auditor")

    generation_id: UUID
    user_id: UUID
    uploads: dict[str, UUID]
    clips: tuple[str, ...] = ()
    clip_duration_ms: int | None = None


class InputsVerified(Message, frozen=True, kw_only=True):
    """Every upload of an order decodes as what it must be, within the limits. ``object_keys`` maps parameter to key."""

    subject: ClassVar[str] = "storage.event.inputs-verified.v1"
    producers: ClassVar[tuple[Service, ...]] = ("storage",)
    consumers: ClassVar[tuple[Service, ...]] = ("generation", "auditor")

    generation_id: UUID
    user_id: UUID
    object_keys: dict[str, str]


class InputsRejected(Message, frozen=True, kw_only=True):
    """An upload of an order is missing, or is no usable picture or clip: the order cannot succeed as asked."""

    subject: ClassVar[str] = "storage.event.inputs-rejected.v1"
    producers: ClassVar[tuple[Service, ...]] = ("storage",)
    consumers: ClassVar[tuple[Service, ...]] = ("generation", "auditor")

    generation_id: UUID
    user_id: UUID
    parameter: str
    code: RejectionCode
    detail: str


class AssetStored(Message, frozen=True, kw_only=True):
    """A file was checked, decoded and written to the library under its final key."""

    subject: ClassVar[str] = "storage.event.asset-stored.v1"
    producers: ClassVar[tuple[Service, ...]] = ("storage",)
    consumers: ClassVar[tuple[Service, ...]] = ("generation", "gateway", "auditor")

    asset_id: UUID
    generation_id: UUID
    user_id: UUID
    attempt_id: UUID
    attempt_number: int
    object_key: str
    poster_object_key: str
    size_bytes: int
    sha256: str
    media: MediaProperties
    stored_at: datetime


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """A small picture of an output, in the library beside it."""

    object_key: str
    content_type: str
    width_pixels: int
    height_pixels: int
    size_bytes: int
    sha256: str


class PreviewsStored(Message, frozen=True, kw_only=True):
    """The small pictures of an output are in the library: thumbnails, the smallest first, and of a clip one that moves.

    They come after the output, and may never come: nothing waits for them.
    """

    subject: ClassVar[str] = "storage.event.previews-stored.v1"
    producers: ClassVar[tuple[Service, ...]] = ("storage",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    generation_id: UUID
    user_id: UUID
    asset_id: UUID
    thumbnails: tuple[Preview, ...]
    animated_preview: Preview | None
    stored_at: datetime


class AssetRejected(Message, frozen=True, kw_only=True):
    """A file that a worker reported is not what was ordered."""

    subject: ClassVar[str] = "storage.event.asset-rejected.v1"
    producers: ClassVar[tuple[Service, ...]] = ("storage",)
    consumers: ClassVar[tuple[Service, ...]] = ("generation", "auditor")

    generation_id: UUID
    user_id: UUID
    attempt_id: UUID
    attempt_number: int
    code: RejectionCode
    detail: str


class OutputMissing(Message, frozen=True, kw_only=True):
    """Storage checked every key that was named and found no file that verifies."""

    subject: ClassVar[str] = "storage.event.output-missing.v1"
    producers: ClassVar[tuple[Service, ...]] = ("storage",)
    consumers: ClassVar[tuple[Service, ...]] = ("generation", "auditor")

    generation_id: UUID
    user_id: UUID
    sought_version: int


class DeleteFiles(Message, frozen=True, kw_only=True):
    """A user deletes a generation that has ended: remove every file of it from the library, for good.

    A file of it that is stored later is removed, too. Said again, it is done again.
    """

    subject: ClassVar[str] = "storage.command.delete-files.v1"
    producers: ClassVar[tuple[Service, ...]] = ("gateway",)
    consumers: ClassVar[tuple[Service, ...]] = ("storage", "auditor")

    generation_id: UUID
    user_id: UUID
    requested_at: datetime


class FilesDeleted(Message, frozen=True, kw_only=True):
    """No file of a generation is in the library any more, because its user deleted it."""

    subject: ClassVar[str] = "storage.event.files-deleted.v1"
    producers: ClassVar[tuple[Service, ...]] = ("storage",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    generation_id: UUID
    user_id: UUID
    deleted_at: datetime
