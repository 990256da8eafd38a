"""Everything that a service needs of messaging, put together."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.message import Service
from messaging.amnesia import AmnesiaWatch
from messaging.broker import Broker
from messaging.consumers import Component, ConsumerGroup, Subscription
from messaging.partitions import PartitionKeeper
from messaging.relay import OutboxGauge, Relay
from messaging.settings import BrokerSettings
from messaging.transaction import Transactions


class Messaging:
    """The messaging of one process. Making it connects to nothing; run its :meth:`components`."""

    def __init__(
        self,
        *,
        service: Service,
        engine: AsyncEngine,
        broker_settings: BrokerSettings,
        subscriptions: Sequence[Subscription] = (),
    ) -> None:
        self.transactions = Transactions(engine, producer=service)
        self.broker = Broker(broker_settings.url, broker_settings.user, broker_settings.password, name=service)
        self.relay = Relay(service, engine, self.broker, self.transactions)
        self.consumers = ConsumerGroup(service, subscriptions, self.transactions, self.broker, broker_settings)
        self.amnesia = AmnesiaWatch(
            service,
            engine,
            self.broker,
            self.transactions,
            [self.relay.checkpoints, *(consumer.batches.checkpoints for consumer in self.consumers.consumers)],
            broker_settings.replicas,
        )
        self.partitions = PartitionKeeper(service, engine)
        self._gauge = OutboxGauge(service, engine)

    def components(self) -> list[Component]:
        """What has to run for as long as the service does; each holds the broker connection open while it runs."""
        return [self.amnesia, self.relay, *self.consumers.components(), self.partitions, self._gauge]

    def readiness(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Checks that return when all is well and raise with the reason when not."""
        return {"broker": self.broker.ready, "streams": self.amnesia.ready}
