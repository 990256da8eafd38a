"""How far the consumers of a service are behind, as the broker says it."""

import asyncio
from collections.abc import Sequence
from typing import Final

import nats.errors
import structlog

from messaging import metrics
from messaging.broker import Broker
from messaging.consumers import StreamConsumer

MEASURE_SECONDS: Final = 15.0

_log = structlog.get_logger("messaging.consumer_gauge")


class ConsumerGauge:
    """Component that measures what each consumer has not handled yet: not delivered, or not acknowledged."""

    name = "consumer-gauge"

    def __init__(self, broker: Broker, consumers: Sequence[StreamConsumer], seconds: float = MEASURE_SECONDS) -> None:
        self._broker = broker
        self._consumers = consumers
        self._seconds = seconds

    async def run(self) -> None:
        """Measure until cancelled; keep the last value while the broker does not answer."""
        async with self._broker.open():
            while True:
                await self._broker.connected()
                for consumer in self._consumers:
                    try:
                        info = await self._broker.jetstream.consumer_info(consumer.stream, consumer.durable)
                    except (nats.errors.Error, OSError) as error:
                        _log.info("consumer_not_measured", consumer=consumer.durable, error=type(error).__name__)
                        continue
                    pending = (info.num_pending or 0) + (info.num_ack_pending or 0)
                    metrics.PENDING.labels(consumer.durable).set(pending)
                await asyncio.sleep(self._seconds)
