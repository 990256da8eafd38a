"""How each stream is kept. Durations are in seconds.

The provisioner's settings may give a stream another size and a shorter retention (``messaging.provisioning``).
"""

from typing import Final

import msgspec

from contracts.message import Service

LEAST_AGE_SECONDS: Final = 2 * 3600
"""No stream keeps messages for less, whoever shortens its retention: the broker remembers ids for as long."""


class StreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One stream per owner, limits retention, file storage, new messages refused rather than unread ones dropped.

    ``bytes_per_order`` is what one order leaves in it, with headers and a prompt of a kilobyte, rounded up.
    """

    name: str
    owner: Service
    subjects: tuple[str, ...]
    bytes_per_order: int
    max_age_seconds: int = 7 * 24 * 3600
    duplicate_window_seconds: int = LEAST_AGE_SECONDS
    max_bytes: int = 8 * 1024**3
    max_message_bytes: int = 256 * 1024


_BYTES_PER_ORDER: Final[dict[Service, int]] = {
    "gateway": 2_000,
    "billing": 4_000,
    "generation": 4_000,
    "storage": 1_500,
    "payments": 500,
}

STREAMS: Final[tuple[StreamSpec, ...]] = tuple(
    StreamSpec(name=owner.upper(), owner=owner, subjects=(f"{owner}.>",), bytes_per_order=size)
    for owner, size in _BYTES_PER_ORDER.items()
)

BY_NAME: Final[dict[str, StreamSpec]] = {stream.name: stream for stream in STREAMS}
