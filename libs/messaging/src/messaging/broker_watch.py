"""Whether JetStream answers and takes writes: what readiness says of the broker.

A NATS server can look well and store nothing. After a write failed because the disk was full, it answers pings and
``$JS.API``, and says nothing at all to a publish, until it is restarted: even when there is space again. So two things
are looked at: whether JetStream answers for a stream that this service knows, and what became of this service's own
messages.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import nats.errors
import structlog

from contracts.message import Service
from messaging import metrics
from messaging.broker import Broker
from messaging.errors import BrokerUnavailableError
from messaging.stream_look import look_at

ASK_SECONDS: Final = 2.0
FRESH_SECONDS: Final = 4.0
"""So long an answer to others in this process will do: the amnesia watch asks every 3 s."""
STALE_SECONDS: Final = 15.0
"""Readiness fails when the last answer is older: an election of a leader takes a few seconds and is no outage."""
REFUSED_SECONDS: Final = 5.0
"""A stream that has refused or ignored messages for so long, and accepted none meanwhile, takes no writes."""
FORGET_SECONDS: Final = 30.0
"""A refusal is repeated every few seconds while a message waits. Then another process had it published."""

_log = structlog.get_logger("messaging.broker_watch")


@dataclass(slots=True)
class _Refusals:
    reason: str
    since: float
    last: float


class StreamWrites:
    """What became of this process's messages, by stream. The relay writes it, readiness reads it."""

    def __init__(self) -> None:
        self._refusals: dict[str, _Refusals] = {}

    def refused(self, stream: str, reason: str) -> None:
        """A message was refused, or nothing came back."""
        now = time.monotonic()
        known = self._refusals.get(stream)
        if known is None or now - known.last > FORGET_SECONDS:
            self._refusals[stream] = _Refusals(reason, now, now)
        else:
            known.reason, known.last = reason, now

    def accepted(self, stream: str) -> None:
        """A message was stored."""
        self._refusals.pop(stream, None)

    def failing(self) -> dict[str, str]:
        """Streams that take no writes, with the reason."""
        now = time.monotonic()
        return {
            stream: one.reason
            for stream, one in self._refusals.items()
            if now - one.since >= REFUSED_SECONDS and now - one.last <= FORGET_SECONDS
        }


class BrokerWatch:
    """Component that asks JetStream about ``streams`` when it has not answered for a few seconds.

    ``ready`` is the readiness check.
    """

    name = "broker-watch"

    def __init__(self, service: Service, broker: Broker, writes: StreamWrites, streams: Sequence[str]) -> None:
        self._service = service
        self._broker = broker
        self._writes = writes
        self._streams = streams
        self._trouble = "JetStream has not been asked yet"

    async def run(self) -> None:
        """Ask until cancelled."""
        # Until JetStream has answered, it is not there.
        metrics.BROKER_WRITABLE.labels(self._service).set(0)
        async with self._broker.open():
            while True:
                try:
                    async with asyncio.timeout(ASK_SECONDS):
                        await self._broker.connected()
                    if self._age() > FRESH_SECONDS:
                        for stream in self._streams:
                            await look_at(self._broker, stream)
                except (nats.errors.Error, OSError) as error:
                    trouble = f"JetStream does not answer: {type(error).__name__}: {error}"
                    if trouble != self._trouble:
                        _log.warning("jetstream_silent", error=f"{type(error).__name__}: {error}")
                    self._trouble = trouble
                else:
                    self._trouble = ""
                failing = bool(self._writes.failing()) or self._age() > STALE_SECONDS
                metrics.BROKER_WRITABLE.labels(self._service).set(not failing)
                await asyncio.sleep(ASK_SECONDS)

    async def ready(self) -> None:
        """Return if JetStream answers and takes writes. Raises BrokerUnavailableError with the reason."""
        await self._broker.ready()
        if self._age() > STALE_SECONDS:
            raise BrokerUnavailableError(self._trouble)
        failing = self._writes.failing()
        if failing:
            reasons = ", ".join(f"{stream} ({reason})" for stream, reason in sorted(failing.items()))
            raise BrokerUnavailableError(f"JetStream stores no messages: {reasons}")

    def _age(self) -> float:
        now = time.monotonic()
        return now - min((self._broker.answered_at.get(one, float("-inf")) for one in self._streams), default=now)
