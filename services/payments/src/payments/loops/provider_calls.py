"""One way to call a provider: bounded in time, counted by outcome."""

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

import structlog

from contracts.payments import Provider
from payments.errors import CredentialsRefused, ProviderRefused, ProviderUnavailable
from payments.metrics import provider_calls_total
from service_runtime.tracing import step

CALL_SECONDS: Final = 45.0
"""The longest wait for one call, with all its pages and retries; after that it counts as no answer."""

Outcome = TypeVar("Outcome")

log = structlog.get_logger(__name__)


async def call_provider(provider: Provider, call: str, work: Awaitable[Outcome]) -> Outcome:
    """Await one call. Raises what the provider's adapter raises, and ``ProviderUnavailable`` after ``CALL_SECONDS``."""
    outcome = "cancelled"
    try:
        with step(f"{provider} {call}", attributes={"peer.service": provider}):
            async with asyncio.timeout(CALL_SECONDS):
                found = await work
    except TimeoutError as error:
        outcome = "unavailable"
        raise ProviderUnavailable(f"{call}: no answer in {CALL_SECONDS:g} s") from error
    except CredentialsRefused as error:
        outcome = "denied"
        log.error("credentials_refused", provider=provider, call=call, reason=str(error))
        raise
    except ProviderUnavailable:
        outcome = "unavailable"
        raise
    except ProviderRefused:
        outcome = "refused"
        raise
    except Exception:
        outcome = "unreadable"
        raise
    else:
        outcome = "ok"
        return found
    finally:
        provider_calls_total.labels(provider, call, outcome).inc()
