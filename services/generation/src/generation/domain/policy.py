"""Bounds in time and number. Every one is a setting of the service."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from service_runtime.backoff import Backoff

_RETRIES: Final = Backoff(first=timedelta(seconds=2), longest=timedelta(seconds=60), factor=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What bounds an order: its attempts, the waits between them, and the waits for others."""

    max_attempts: int = 3
    retry_backoff: Backoff = _RETRIES
    ambiguous_wait: timedelta = timedelta(seconds=45)
    """From the submission to a sign of a job that had no answer."""
    first_check: timedelta = timedelta(seconds=20)
    """From the submission to the first poll of ``/status``."""
    check_interval: timedelta = timedelta(seconds=20)
    cancel_timeout: timedelta = timedelta(seconds=45)
    storing_timeout: timedelta = timedelta(minutes=10)
    lookup_timeout: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """Failure number ``threshold`` in a row pauses an endpoint for the first of ``pauses``, each further one longer."""

    threshold: int
    pauses: Backoff


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How often the provider is asked about an endpoint, and after how long without orders one is kept alive.

    Both in seconds; None: never.
    """

    interval_seconds: float
    keep_alive_seconds: float | None = None
