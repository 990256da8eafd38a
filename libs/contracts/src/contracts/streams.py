"""How each stream is kept. Durations are in seconds."""

from typing import Final

import msgspec

from contracts.message import Service


class StreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One stream per owner, limits retention, file storage, new messages refused rather than old ones dropped."""

    name: str
    owner: Service
    subjects: tuple[str, ...]
    max_age_seconds: int = 7 * 24 * 3600
    duplicate_window_seconds: int = 2 * 3600
    max_bytes: int = 8 * 1024**3
    max_message_bytes: int = 256 * 1024


STREAMS: Final[tuple[StreamSpec, ...]] = tuple(
    StreamSpec(name=owner.upper(), owner=owner, subjects=(f"{owner}.>",))
    for owner in ("gateway", "billing", "generation", "storage", "payments")
)

BY_NAME: Final[dict[str, StreamSpec]] = {stream.name: stream for stream in STREAMS}
