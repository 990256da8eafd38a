"""One process of a service, for tests that kill it: ``python -m tests.messaging.integration.process billing``.

Environment: ``DSN``, ``NATS_URL``, ``NATS_PASSWORD``, ``MESSAGES`` for how many to commit, and ``REELHOUSE_FAILPOINTS``
for where to die.
"""

import asyncio
import os
import sys
from typing import cast

from sqlalchemy.ext.asyncio import create_async_engine

from contracts.billing import CreditsRefused
from contracts.message import Service
from messaging.consumers import Subscription
from messaging.runtime import Messaging
from messaging.settings import BrokerSettings
from tests.messaging.integration.effects import publish_refused, record


async def main(service: Service) -> None:
    """Run the messaging of ``service`` until killed; the gateway records what billing refuses, a moment later."""
    messaging = Messaging(
        service=service,
        engine=create_async_engine(os.environ["DSN"].replace("postgresql://", "postgresql+asyncpg://", 1)),
        broker_settings=BrokerSettings(
            url=os.environ["NATS_URL"], user=service, password=os.environ["NATS_PASSWORD"], ack_wait_seconds=2
        ),
        subscriptions=[Subscription(CreditsRefused, record, linger_seconds=0.5)] if service == "gateway" else [],
    )
    async with asyncio.TaskGroup() as tasks:
        for component in messaging.components():
            tasks.create_task(component.run())
        if messages := int(os.environ.get("MESSAGES", "0")):
            await publish_refused(messaging.transactions, messages)


if __name__ == "__main__":
    asyncio.run(main(cast("Service", sys.argv[1])))
