"""One process of a service, for tests that kill it: ``python -m tests.messaging.integration.process billing``.

Environment: that of ``ServiceSettings``, ``MESSAGES`` for how many to commit, ``MAX_DELIVERIES``, and
``REELHOUSE_FAILPOINTS`` for where to die.
"""

import asyncio
import os
import sys
from typing import cast

from contracts.billing import CreditsRefused
from contracts.message import Service
from messaging.consumers import Subscription
from messaging.runtime import Messaging
from messaging.settings import ConsumerLimits
from service_runtime.database import create_engine
from service_runtime.settings import ServiceSettings
from tests.messaging.integration.effects import publish_refused, record


async def main(service: Service) -> None:
    """Run the messaging of ``service`` until killed; the gateway records what billing refuses, a moment later."""
    settings = ServiceSettings()
    messaging = Messaging(
        service=service,
        engine=create_engine(settings),
        settings=settings,
        subscriptions=[Subscription(CreditsRefused, record, linger_seconds=0.5)] if service == "gateway" else [],
        limits=ConsumerLimits(max_deliveries=int(os.environ["MAX_DELIVERIES"])),
    )
    async with asyncio.TaskGroup() as tasks:
        for component in messaging.components():
            tasks.create_task(component.run())
        if messages := int(os.environ.get("MESSAGES", "0")):
            await publish_refused(messaging.transactions, messages)


if __name__ == "__main__":
    asyncio.run(main(cast("Service", sys.argv[1])))
