"""Messages a second, whole: commit, relay, stream, inbox, commit; one in each transaction, and twenty.

    python -m benchmarks.messaging [--messages 4000]

Billing commits events and its relay publishes them; the gateway reads them and commits its inbox. Both run in this one
process, on a PostgreSQL and a NATS server that do not wait for their disk. A message counts when the transaction that
received it has committed. ``make bench-peers`` prints the same beside the empty jobs of BullMQ.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Final

import uvloop
from pydantic import SecretStr

from contracts.billing import CreditsRefused
from contracts.message import Service
from local_platform.console import say, table
from local_platform.servers import NatsServer, PostgresServer
from messaging.consumers import Subscription
from messaging.ids import new_id
from messaging.received import Received
from messaging.runtime import Messaging
from messaging.transaction import Transaction, Transactions
from service_runtime.settings import ServiceSettings
from tests.support.components import running
from tests.support.databases import Database, DatabaseFactory
from tests.support.folders import removed_at_exit

COMMITTERS: Final = 8
"""Transactions at once, as a service under load has them."""
WARM_UP: Final = 400
PATIENCE_SECONDS: Final = 120.0


class Reader:
    """Does nothing with a message but count it, once it is committed."""

    def __init__(self) -> None:
        self._read = 0
        self._wanted = 0
        self._all_read = asyncio.Event()

    def expect(self, count: int) -> None:
        """Count from zero."""
        self._read, self._wanted = 0, count
        self._all_read.clear()

    async def all_read(self) -> None:
        """Return when as many were read as are expected. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._all_read.wait()

    async def handle(self, tx: Transaction, messages: Sequence[Received[Any]]) -> None:
        """The handler of the subscription."""
        tx.after_commit(lambda: self._count(len(messages)))

    def _count(self, number: int) -> None:
        self._read += number
        if self._read >= self._wanted:
            self._all_read.set()


async def messages_per_second(count: int, bulk: int) -> float:
    """How many messages a second go from commit to commit, ``bulk`` in each transaction."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(removed_at_exit("reelhouse-bench-messaging-"))
        postgres, nats = PostgresServer(folder / "postgres"), NatsServer(folder / "nats")
        for server in (postgres, nats):
            await server.start()
            stack.push_async_callback(server.stop)
        database = await DatabaseFactory(postgres).make(("billing", "gateway"))
        stack.push_async_callback(database.dispose)
        reader = Reader()
        gateway = _messaging("gateway", database, nats, (Subscription(CreditsRefused, reader.handle),))
        billing = _messaging("billing", database, nats)
        await stack.enter_async_context(running([*gateway.components(), *billing.components()]))
        await _send(billing.transactions, reader, WARM_UP, bulk)
        return await _send(billing.transactions, reader, count, bulk)


def _messaging(
    service: Service, database: Database, nats: NatsServer, subscriptions: Sequence[Subscription] = ()
) -> Messaging:
    settings = ServiceSettings(
        database_url=SecretStr(database.dsn(service)),
        nats_url=nats.url,
        nats_user=service,
        nats_password=SecretStr(nats.users[service]),
        ops_port=0,
    )
    return Messaging(service=service, engine=database.engine(service), settings=settings, subscriptions=subscriptions)


async def _send(transactions: Transactions, reader: Reader, count: int, bulk: int) -> float:
    reader.expect(count)
    remaining = iter(range(count // bulk))

    async def commit() -> None:
        for _ in remaining:
            async with transactions.begin() as tx:
                for _ in range(bulk):
                    tx.publish(_event(), correlation_id=new_id())

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(COMMITTERS):
            group.create_task(commit())
    await reader.all_read()
    return count / (time.monotonic() - began)


def _event() -> CreditsRefused:
    return CreditsRefused(
        generation_id=new_id(),
        user_id=new_id(),
        code="insufficient_credits",
        required_credits=1,
        available_credits=0,
        refused_at=datetime.now(UTC),
    )


async def main(messages: int) -> None:
    """Measure both ways and print them."""
    rows = []
    for heading, bulk, count in (("one by one", 1, messages), ("in twenties", 20, 4 * messages)):
        rows.append((heading, f"{await messages_per_second(count, bulk):,.0f}"))
    say(table(("messages a second, commit to commit", ""), rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.messaging", description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=4_000, help="one by one; four times that in twenties")
    uvloop.run(main(parser.parse_args().messages))
