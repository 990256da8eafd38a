"""How one part of the process wakes the loops of another, so that work does not wait for their next poll."""

import asyncio
from collections.abc import Iterable


class WakeUps:
    """One per process. Nothing is lost if a wake-up is: ``loops.sweep`` finds it, and every loop also polls."""

    def __init__(self) -> None:
        self.dispatch = asyncio.Event()
        self.callbacks = asyncio.Event()
        self.file_transfers = asyncio.Event()
        self.checks = asyncio.Event()
        self.cancels = asyncio.Event()
        self.timers = asyncio.Event()
        self._endpoints: set[str] = set()

    def dispatch_at(self, endpoints: Iterable[str]) -> None:
        """There may be orders to claim at these endpoints now."""
        self._endpoints.update(endpoints)
        self.dispatch.set()

    def take_endpoints(self) -> set[str]:
        """The endpoints named since the last call. Empty if only time has passed."""
        endpoints, self._endpoints = self._endpoints, set()
        return endpoints
