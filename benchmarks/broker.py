"""What the accounts at the broker cost: publish and consume, with one account and with thin accounts, in one run.

    python -m benchmarks.broker [--messages 20000] [--rounds 3]

The peer is the same server with the same streams and all users in one account, as it was before decision 0030. Both
servers take turns, so that load from elsewhere meets both; the best round of each counts.
"""

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from contracts.billing import CreditsReserved
from contracts.permissions import API_PREFIX, inbox_prefix
from local_platform.console import say, table
from local_platform.servers import NatsServer
from local_platform.servers.nats import ADMIN

PAYLOAD: Final = b"x" * 1000
STREAM, DURABLE = "BILLING", "gateway-billing"
BATCH: Final = 100
IN_FLIGHT: Final = 500
"""As many as the relay publishes at once."""


class OneAccount(NatsServer):
    """The peer: every user may do anything in the one account."""

    def _configuration(self) -> dict[str, Any]:
        configuration: dict[str, Any] = super()._configuration()
        del configuration["accounts"], configuration["system_account"]
        users = [{"user": user, "password": password} for user, password in self.users.items()]
        return configuration | {"authorization": {"users": users}}


class Peer:
    """One server with a publishing billing and a reading gateway."""

    def __init__(self, server: NatsServer, prefix: str) -> None:
        self._server = server
        self._prefix = prefix
        self._billing = Client()
        self._gateway = Client()
        self._admin = Client()

    async def open(self, stack: AsyncExitStack) -> None:
        """Start the server and connect."""
        await self._server.start()
        stack.push_async_callback(self._server.stop)
        for user, client in (("billing", self._billing), ("gateway", self._gateway), (ADMIN, self._admin)):
            await client.connect(
                self._server.url,
                user=user,
                password=self._server.users[user],
                inbox_prefix=inbox_prefix(user),
                pending_size=64 * 1024 * 1024,
            )
            stack.push_async_callback(client.close)

    async def empty(self) -> None:
        """Take out the messages of the round before."""
        await self._admin.jetstream().purge_stream(STREAM)

    async def publish(self, count: int) -> float:
        """Messages a second, each acknowledged by the stream, ``IN_FLIGHT`` at once."""
        acknowledged = asyncio.Semaphore(IN_FLIGHT)
        inbox = self._billing.new_inbox()
        stored = 0
        done = asyncio.Event()

        async def on_ack(message: Msg) -> None:
            nonlocal stored
            assert b'"seq"' in message.data, message.data
            acknowledged.release()
            stored += 1
            if stored == count:
                done.set()

        subscription = await self._billing.subscribe(inbox, cb=on_ack)
        began = time.monotonic()
        for _ in range(count):
            await acknowledged.acquire()
            await self._billing.publish(CreditsReserved.subject, PAYLOAD, reply=inbox)
        await done.wait()
        taken = time.monotonic() - began
        await subscription.unsubscribe()
        return count / taken

    async def consume(self, count: int) -> float:
        """Messages a second, in pulls of ``BATCH``, each acknowledged."""
        subject = f"{self._prefix}.CONSUMER.MSG.NEXT.{STREAM}.{DURABLE}"
        request = json.dumps({"batch": BATCH, "expires": 5_000_000_000, "idle_heartbeat": 1_000_000_000}).encode()
        subscription = await self._gateway.subscribe(inbox := self._gateway.new_inbox())
        began = time.monotonic()
        read = 0
        while read < count:
            await self._gateway.publish(subject, request, reply=inbox)
            wanted = min(BATCH, count - read)
            while wanted:
                message = await subscription.next_msg(10)
                if message.reply:
                    await message.ack()
                    wanted, read = wanted - 1, read + 1
        await self._gateway.flush()
        taken = time.monotonic() - began
        await subscription.unsubscribe()
        return count / taken

    async def latency_ms(self, count: int) -> float:
        """Milliseconds of one publish that waits for its acknowledgement."""
        began = time.monotonic()
        for _ in range(count):
            await self._billing.request(CreditsReserved.subject, PAYLOAD, timeout=10)
        return (time.monotonic() - began) / count * 1000


async def main(messages: int, rounds: int) -> None:
    """Measure both in turn, and print the ratios."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reelhouse-bench-broker-")))
        peers = {
            "one account": Peer(OneAccount(directory / "one"), "$JS.API"),
            "thin accounts": Peer(NatsServer(directory / "thin"), API_PREFIX),
        }
        for peer in peers.values():
            await peer.open(stack)
        published: dict[str, list[float]] = {name: [] for name in peers}
        consumed: dict[str, list[float]] = {name: [] for name in peers}
        waited: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(rounds):
            for name, peer in peers.items():
                await peer.empty()
                published[name].append(await peer.publish(messages))
                consumed[name].append(await peer.consume(messages))
                waited[name].append(await peer.latency_ms(messages // 20))
    one, thin = peers
    rows = [
        ("publish, messages/s", f"{max(published[one]):,.0f}", f"{max(published[thin]):,.0f}",
         f"{max(published[thin]) / max(published[one]):.2f}"),
        ("consume, messages/s", f"{max(consumed[one]):,.0f}", f"{max(consumed[thin]):,.0f}",
         f"{max(consumed[thin]) / max(consumed[one]):.2f}"),
        ("one publish, ms", f"{min(waited[one]):.3f}", f"{min(waited[thin]):.3f}",
         f"{min(waited[thin]) / min(waited[one]):.2f}"),
    ]  # fmt: skip
    say(f"\n{messages} messages of {len(PAYLOAD)} bytes, the best of {rounds} rounds; one Python process at each end")
    say(table(("", one, thin, "thin/one"), rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.broker")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.messages, arguments.rounds))
