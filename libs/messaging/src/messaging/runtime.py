"""Everything that a service needs of messaging, wired."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.message import Service
from contracts.streams import STREAMS
from messaging.amnesia import AmnesiaWatch
from messaging.broker import Broker
from messaging.broker_watch import BrokerWatch
from messaging.consumer_gauge import ConsumerGauge
from messaging.consumers import ConsumerGroup, Subscription
from messaging.lineage import Lineage
from messaging.partitions import PartitionKeeper
from messaging.relay import OutboxGauge, Relay
from messaging.settings import ConsumerLimits
from messaging.transaction import Transactions
from service_runtime.lifecycle import Component
from service_runtime.settings import ServiceSettings


class Messaging:
    """The messaging of one process. Making it connects to nothing; run its :meth:`components`."""

    def __init__(
        self,
        *,
        service: Service,
        engine: AsyncEngine,
        settings: ServiceSettings,
        subscriptions: Sequence[Subscription] = (),
        limits: ConsumerLimits = ConsumerLimits(),  # noqa: B008 - immutable
    ) -> None:
        self.transactions = Transactions(engine, producer=service)
        self.broker = Broker.of(settings, name=service)
        self.lineage = Lineage(service)
        replays_wanted = asyncio.Event()
        self.relay = Relay(service, engine, self.broker, self.transactions, self.lineage, replays_wanted)
        self.consumers = ConsumerGroup(
            service, subscriptions, self.transactions, self.broker, self.lineage, limits, replays_wanted
        )
        self.amnesia = AmnesiaWatch(
            service,
            engine,
            self.broker,
            self.transactions,
            [self.relay.checkpoints, *(consumer.batches.checkpoints for consumer in self.consumers.consumers)],
            settings.stream_replicas,
            self.lineage,
            self.relay.remember_fill,
        )
        owned = [stream.name for stream in STREAMS if stream.owner == service]
        read = [consumer.stream for consumer in self.consumers.consumers]
        self.watch = BrokerWatch(service, self.broker, self.relay.writes, (owned or read)[:1])
        self.partitions = PartitionKeeper(service, engine)
        self._gauges: list[Component] = [OutboxGauge(service, engine)]
        if self.consumers.consumers:
            self._gauges.append(ConsumerGauge(self.broker, self.consumers.consumers))

    def components(self) -> list[Component]:
        """What has to run for as long as the service does; each keeps the broker connection open while it runs."""
        return [self.watch, self.amnesia, self.relay, *self.consumers.components(), self.partitions, *self._gauges]

    def readiness(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Checks that return when all is well and raise with the reason when not."""
        return {**self.broker_readiness(), "lineage": self.lineage.ready}

    def broker_readiness(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Those that fail while the broker is away: what takes requests of others goes on without it."""
        return {"broker": self.watch.ready, "streams": self.amnesia.ready, "consumers": self.consumers.ready}
