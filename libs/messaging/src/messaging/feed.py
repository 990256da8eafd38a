"""A standing pull from one durable consumer.

nats-py's own ``fetch`` asks again for every batch and has open reports about reconnects. This one keeps a request open
at the broker, so that a message is on its way the moment it is stored, asks for more when half is used up, and raises
FeedLostError when the broker's heartbeats stop, the connection was rebuilt, or the consumer is gone.

The heartbeats also keep open the way back from the account that holds the consumer: without them the server closes it
after the export's threshold (``provisioning.broker``).
"""

import asyncio
import contextlib
import json
import time
from collections import deque
from typing import Final

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from contracts.permissions import API_PREFIX
from messaging.broker import Broker
from messaging.errors import FeedLostError

_EXPIRES_SECONDS: Final = 30
_HEARTBEAT_SECONDS: Final = 2
_SILENCE_SECONDS: Final = 2.5 * _HEARTBEAT_SECONDS

_HEARTBEAT: Final = "100"
_NO_RESPONDERS: Final = "503"
_PENDING_HEADER: Final = "Nats-Pending-Messages"


class Feed:
    """Open it, call :meth:`batch` in a loop, close it; or retire it when another takes its place."""

    def __init__(self, broker: Broker, stream: str, durable: str, batch_size: int, linger_seconds: float) -> None:
        self._broker = broker
        self._subject = f"{API_PREFIX}.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._batch_size = batch_size
        self._linger_seconds = linger_seconds
        self._batch_at = 0.0
        self._inbox = broker.client.new_inbox()
        self._subscription: Subscription | None = None
        self._queue: deque[Msg] = deque()
        self._outstanding = 0
        self._heard = False
        self._lost: str | None = None
        self._retired = False
        self._arrived = asyncio.Event()
        self._received = 0
        self._handled = 0
        self._caught_up: list[tuple[int, asyncio.Future[None]]] = []
        self._hurried = asyncio.Event()
        """There is something not to wait with: a full batch, or the end of this feed."""
        self.delivered = asyncio.Event()
        """A message has arrived. Who waits for that clears it."""
        self.epoch = broker.epoch

    async def open(self) -> None:
        """Listen; what is asked for from now on arrives here."""
        self._batch_at = time.monotonic() + self._linger_seconds
        self._subscription = await self._broker.client.subscribe(self._inbox, cb=self._on_message)

    async def retire(self) -> None:
        """Return what no batch has taken, now and whenever something still arrives for an old request.

        Without this, a message that the broker sends late waits until its ack wait has passed.
        """
        self._retired = True
        self._count_handled(self._received)
        for message in self._queue:
            await message.nak()
        self._queue.clear()

    async def close(self) -> None:
        """Retire, and stop listening."""
        if self._subscription is None or self._broker.client.is_closed:
            return
        subscription, self._subscription = self._subscription, None
        await subscription.unsubscribe()
        await self.retire()

    @property
    def current(self) -> bool:
        """Whether these messages came over the present connection."""
        return self.epoch == self._broker.epoch

    async def catch_up(self) -> None:
        """Have what has arrived taken without lingering; return when it is handled, or when this feed has ended."""
        if self._handled == self._received:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._caught_up.append((self._received, done))
        self._batch_at = 0.0
        self._hurried.set()
        await done

    def waiting(self) -> list[Msg]:
        """Messages that have arrived and that no batch has taken yet."""
        return list(self._queue)

    def lose(self, reason: str) -> None:
        """Give this feed up: the next :meth:`batch` raises."""
        self._lost = reason
        self.wake()

    def wake(self) -> None:
        """Check the state of the connection now."""
        self._arrived.set()
        self._hurried.set()

    async def batch(self) -> list[Msg]:
        """Wait for messages; returns all that are there, at most ``batch_size``.

        A batch that is not full is not taken sooner than ``linger_seconds`` after the one before: so what comes after
        a quiet time does not wait, and what comes often is taken together. Raises FeedLostError.
        """
        self._count_handled(self._received - len(self._queue))
        while True:
            if not self.current:
                raise FeedLostError("the connection was rebuilt")
            if self._lost is not None:
                raise FeedLostError(self._lost)
            await self._ask_for_more()
            if not self._queue:
                await self._wait()
            elif len(self._queue) < self._batch_size and (early := self._batch_at - time.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(early):
                        await self._hurried.wait()
                self._hurried.clear()
            else:
                self._batch_at = time.monotonic() + self._linger_seconds
                return [self._queue.popleft() for _ in range(min(len(self._queue), self._batch_size))]

    def _count_handled(self, number: int) -> None:
        self._handled = number
        for wanted, done in self._caught_up:
            if wanted <= number and not done.done():
                done.set_result(None)
        self._caught_up = [(wanted, done) for wanted, done in self._caught_up if wanted > number]

    async def _ask_for_more(self) -> None:
        wanted = self._batch_size - self._outstanding - len(self._queue)
        if wanted < max(1, self._batch_size // 2):
            return
        request = {
            "batch": wanted,
            "expires": _EXPIRES_SECONDS * 1_000_000_000,
            "idle_heartbeat": _HEARTBEAT_SECONDS * 1_000_000_000,
        }
        self._outstanding += wanted
        await self._broker.client.publish(self._subject, json.dumps(request).encode(), self._inbox)

    async def _wait(self) -> None:
        self._arrived.clear()
        self._heard = False
        try:
            async with asyncio.timeout(_SILENCE_SECONDS):
                await self._arrived.wait()
        except TimeoutError:
            if not self._heard:
                raise FeedLostError("the broker is silent") from None

    async def _on_message(self, message: Msg) -> None:
        self._heard = True
        status = message.headers.get("Status") if message.headers else None
        if status is None:
            if self._retired:
                await message.nak()
                return
            self._outstanding = max(0, self._outstanding - 1)
            self._received += 1
            self._queue.append(message)
            self._arrived.set()
            self.delivered.set()
            if len(self._queue) >= self._batch_size:
                self._hurried.set()
        elif status != _HEARTBEAT:
            self._end_request(status, message.headers or {})

    def _end_request(self, status: str, headers: dict[str, str]) -> None:
        """A pull request ended (expired, or refused): what it still had open is not coming."""
        description = headers.get("Description", "")
        if status == _NO_RESPONDERS or "Consumer Deleted" in description or "Not Found" in description:
            self._lost = f"the consumer is gone ({status} {description})"
        elif _PENDING_HEADER in headers:
            self._outstanding = max(0, self._outstanding - int(headers[_PENDING_HEADER]))
        else:
            self._lost = f"the pull was refused ({status} {description})"
        self.wake()


FEED_ERRORS: Final = (FeedLostError, nats.errors.Error, OSError)
"""What ends a feed. The consumer builds another one."""
