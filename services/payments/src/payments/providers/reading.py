"""Reading what a provider sent: an object of an odd shape is left out or set aside, and the rest goes on."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Annotated, Final
from uuid import UUID

import msgspec
import structlog

from contracts.payments import Provider
from payments.domain.snapshots import UNREADABLE_EVENT, ProviderEvent
from payments.metrics import unreadable_objects_total

Text = Annotated[str, msgspec.Meta(max_length=2000, pattern="^[^\x00\ud800-\udfff]*$")]
"""A provider's text that PostgreSQL can store: no NUL, and no half of a surrogate pair."""

_ODD_SHAPE: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading raises on an object that is not of its documented shape; msgspec's errors are ValueErrors."""

log = structlog.get_logger(__name__)


@contextlib.contextmanager
def skipping_unreadable(provider: Provider, reference: object) -> Iterator[None]:
    """Log, count and leave out one object that is not of its provider's documented shape."""
    try:
        yield
    except _ODD_SHAPE:
        unreadable_objects_total.labels(provider).inc()
        log.exception("unreadable_object", provider=provider, reference=str(reference))


def read_or_set_aside(
    provider: Provider, read: Callable[[bytes], ProviderEvent | None], body: bytes
) -> ProviderEvent | None:
    """The event in a webhook that its sender has signed; None if it is about no payment of ours.

    A body that cannot be read becomes an event of type ``UNREADABLE_EVENT`` under its digest: refused, it would be
    delivered again for days, and it would be as unreadable each time.
    """
    try:
        return read(body)
    except _ODD_SHAPE as error:
        unreadable_objects_total.labels(provider).inc()
        digest = hashlib.sha256(body).hexdigest()
        log.error("webhook_unreadable", provider=provider, digest=digest, reason=type(error).__name__)
        return ProviderEvent(f"unreadable-{digest}", UNREADABLE_EVENT, None, None, body)


def text(value: object) -> str:
    """A provider's text, if it can be stored. Raises ValueError."""
    return msgspec.convert(value, Text)


def text_or_none(value: object) -> str | None:
    """A provider's text that may be absent. Raises ValueError if it cannot be stored."""
    return None if value is None else text(value)


def uuid_or_none(value: object) -> UUID | None:
    """Our own id as a provider gives it back; None if it is anything else."""
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None
