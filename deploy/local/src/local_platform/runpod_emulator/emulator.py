"""The state that the APIs of the emulator share: endpoints, settings, rules, counters."""

import asyncio
from collections import Counter

from local_platform.runpod_emulator.connections import OpenConnections
from local_platform.runpod_emulator.endpoint import Endpoint
from local_platform.runpod_emulator.limits import RateLimiter
from local_platform.runpod_emulator.rules import Rulebook
from local_platform.runpod_emulator.settings import EmulatorSettings
from local_platform.runpod_emulator.webhooks import Webhooks


class Emulator:
    """The whole state, in memory. Any endpoint id works: an endpoint is created when it is first named."""

    def __init__(self, api_key: str, settings: EmulatorSettings | None = None) -> None:
        self.api_key = api_key
        self.settings = settings or EmulatorSettings()
        self.rules = Rulebook()
        self.webhooks = Webhooks(lambda: self.settings, self.rules)
        self.limiter = RateLimiter()
        self.connections = OpenConnections()
        self.endpoints: dict[str, Endpoint] = {}
        self.answers: Counter[tuple[str, str]] = Counter()
        """Requests by operation and HTTP status (or ``reset``)."""
        self.ignored_results = 0
        self.closing = asyncio.Event()
        """Set when the server stops, so that long polls end at once."""

    def endpoint(self, endpoint_id: str) -> Endpoint:
        """The endpoint of that id."""
        if endpoint_id not in self.endpoints:
            self.endpoints[endpoint_id] = Endpoint(endpoint_id, lambda: self.settings, self.rules, self.webhooks.send)
        return self.endpoints[endpoint_id]
