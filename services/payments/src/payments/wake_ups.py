"""How one part of the process wakes the workers of another, so that work does not wait for their next poll."""

import asyncio
from collections.abc import Mapping

from contracts.payments import PROVIDERS, Provider


class WakeUps:
    """One per process. Nothing is lost if a wake-up is: ``loops.due_work`` finds it, and every worker also polls.

    Only the worker that has something to do is woken: a claim that finds nothing costs a connection of the pool.
    """

    def __init__(self) -> None:
        self.polls: Mapping[Provider, asyncio.Event] = {provider: asyncio.Event() for provider in PROVIDERS}
        """A payment of the provider may be due to be polled."""
        self.refunds: Mapping[Provider, asyncio.Event] = {provider: asyncio.Event() for provider in PROVIDERS}
        """A refund may be due to be sent to the provider."""
        self.events: Mapping[Provider, asyncio.Event] = {provider: asyncio.Event() for provider in PROVIDERS}
        """An event of the provider may be due to be matched."""
