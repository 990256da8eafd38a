"""Reading what a provider sent: an object of an odd shape is left out, and the rest goes on."""

import contextlib
from collections.abc import Iterator
from uuid import UUID

import structlog

from contracts.payments import Provider
from payments.metrics import unreadable_objects_total

log = structlog.get_logger(__name__)


@contextlib.contextmanager
def skipping_unreadable(provider: Provider, reference: object) -> Iterator[None]:
    """Log, count and leave out one object that is not of its provider's documented shape."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        unreadable_objects_total.labels(provider).inc()
        log.exception("unreadable_object", provider=provider, reference=str(reference))


def uuid_or_none(value: object) -> UUID | None:
    """Our own id as a provider gives it back; None if it is anything else."""
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None
