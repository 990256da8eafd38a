"""Pulls from one durable consumer: one is open at the broker whenever a message may come.

nats-py's own ``fetch`` asks again for every batch and has open reports about reconnects. This one keeps a request open
at the broker, so that a message is on its way the moment it is stored, and asks for more when half is used up.

A feed that lingers leaves its messages at the broker meanwhile: they come together, and this process is not woken by
each. Its requests end with what the broker has, or with the first message that it gets.

Both raise FeedLostError when the broker's heartbeats stop, the connection was rebuilt, or the consumer is gone. The
heartbeats also keep open the way back from the account that holds the consumer: without them the server closes it
after the export's threshold (``provisioning.broker``).
"""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Mapping
from typing import Final

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from contracts.permissions import API_PREFIX
from messaging.broker import Broker
from messaging.errors import FeedLostError

_HEARTBEAT_SECONDS: Final = 2
_SILENCE_SECONDS: Final = 2.5 * _HEARTBEAT_SECONDS

_STANDING: Final = {"expires": 30 * 10**9, "idle_heartbeat": _HEARTBEAT_SECONDS * 10**9}
"""A request that stays open until it has all that it asks for. In nanoseconds."""
_AT_ONCE: Final = {"no_wait": True}
"""A request that ends with what the broker has. If that is nothing, it ends at once ..."""
_FROM_FIRST: Final = _AT_ONCE | _STANDING
"""... and this one with the first message. Both are refused while the open requests of others get all that there is."""

_PULL: Final = "pull"
_PROBE: Final = "probe"
"""Where the broker says how a request ended: the last token of a subject."""
_PROBES: Final = 3
"""So often the broker is asked whether everything is on its way. It sends at once what it has."""

_HEARTBEAT: Final = "100"
_NO_MESSAGES: Final = "404"
_ENDED: Final = "408"
_NO_RESPONDERS: Final = "503"
_PENDING_HEADER: Final = "Nats-Pending-Messages"


class Feed:
    """Open it, call :meth:`batch` in a loop, close it; or retire it when another takes its place."""

    def __init__(self, broker: Broker, stream: str, durable: str, batch_size: int, linger_seconds: float) -> None:
        self._broker = broker
        self._subject = f"{API_PREFIX}.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._batch_size = batch_size
        self._linger_seconds = linger_seconds
        self._ask_at = 0.0
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
        """There is something not to linger for: messages that were asked for meanwhile, or the end of this feed."""
        self._probing = asyncio.Lock()
        self._probed: asyncio.Future[bool] | None = None
        """Whether the broker has sent all that it had."""
        self.delivered = asyncio.Event()
        """A message has arrived. Who waits for that clears it."""
        self.epoch = broker.epoch

    async def open(self) -> None:
        """Listen; what is asked for from now on arrives here."""
        self._subscription = await self._broker.client.subscribe(f"{self._inbox}.*", cb=self._on_message)

    async def retire(self) -> None:
        """Return what no batch has taken, now and whenever something still arrives for an old request.

        Without this, a message that the broker sends late waits until its ack wait has passed.
        """
        self._retired = True
        self._end_probe(sent=True)
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
        """Take what the broker has without lingering; return when it is handled, or when this feed has ended."""
        if self._linger_seconds:
            async with self._probing:
                for _ in range(_PROBES):
                    if await self._probe():
                        break
        if self._handled == self._received:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._caught_up.append((self._received, done))
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
        self._end_probe(sent=True)

    async def batch(self) -> list[Msg]:
        """Wait for messages; returns all that are there, at most ``batch_size``.

        None is asked for sooner than ``linger_seconds`` after a batch that was not full: so what comes after a quiet
        time does not wait, and what comes often is taken together. Raises FeedLostError.
        """
        self._count_handled(self._received - len(self._queue))
        while True:
            if not self.current:
                raise FeedLostError("the connection was rebuilt")
            if self._lost is not None:
                raise FeedLostError(self._lost)
            if not self._linger_seconds:
                await self._ask_for_more()
            if self._queue and not (self._linger_seconds and self._outstanding):
                return await self._take()
            if self._outstanding:
                await self._wait()
            elif (early := self._ask_at - time.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(early):
                        await self._hurried.wait()
                self._hurried.clear()
            else:
                await self._ask(self._batch_size, _FROM_FIRST)

    async def _take(self) -> list[Msg]:
        """Take a batch, and ask for what may arrive while it is handled."""
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._batch_size))]
        if not self._linger_seconds:
            await self._ask_for_more()
        elif len(batch) < self._batch_size:
            self._ask_at = time.monotonic() + self._linger_seconds
        elif not self._outstanding:
            await self._ask(self._batch_size, _FROM_FIRST)
        return batch

    def _count_handled(self, number: int) -> None:
        self._handled = number
        for wanted, done in self._caught_up:
            if wanted <= number and not done.done():
                done.set_result(None)
        self._caught_up = [(wanted, done) for wanted, done in self._caught_up if wanted > number]

    async def _ask_for_more(self) -> None:
        wanted = self._batch_size - self._outstanding - len(self._queue)
        if wanted >= max(1, self._batch_size // 2):
            await self._ask(wanted, _STANDING)

    async def _ask(self, wanted: int, terms: Mapping[str, int], kind: str = _PULL) -> None:
        self._outstanding += wanted
        request = json.dumps({"batch": wanted, **terms}).encode()
        await self._broker.client.publish(self._subject, request, f"{self._inbox}.{kind}")

    async def _probe(self) -> bool:
        """Ask for what the broker has. True as soon as that is here; False if it goes to requests that are open.

        An open request of ours says nothing: its answer may be on its way.
        """
        probed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._probed = probed
        await self._ask(self._batch_size, _AT_ONCE, _PROBE)
        self._hurried.set()
        return await probed

    def _end_probe(self, *, sent: bool) -> None:
        if self._probed is not None and not self._probed.done():
            self._probed.set_result(sent)

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
            self._received += 1
            self._queue.append(message)
            self.delivered.set()
            self._count_answered(1)
        elif status != _HEARTBEAT:
            self._end_request(status, message.headers or {}, is_probe=message.subject.endswith(_PROBE))

    def _end_request(self, status: str, headers: dict[str, str], *, is_probe: bool) -> None:
        """A pull request ended (expired, or refused): what it still had open is not coming."""
        description = headers.get("Description", "")
        if status == _NO_RESPONDERS or "Consumer Deleted" in description or "Not Found" in description:
            self.lose(f"the consumer is gone ({status} {description})")
            return
        if _PENDING_HEADER in headers:
            self._count_answered(int(headers[_PENDING_HEADER]))
        elif self._linger_seconds and status in (_NO_MESSAGES, _ENDED):
            if not is_probe:
                self._ask_at = time.monotonic() + self._linger_seconds
            self._count_answered(self._batch_size)
        else:
            self.lose(f"the pull was refused ({status} {description})")
        if is_probe:
            self._end_probe(sent=_PENDING_HEADER in headers or status == _NO_MESSAGES)

    def _count_answered(self, number: int) -> None:
        self._outstanding = max(0, self._outstanding - number)
        if not self._outstanding:
            self._end_probe(sent=True)
        if not self._outstanding or not self._linger_seconds:
            self._arrived.set()


FEED_ERRORS: Final = (FeedLostError, nats.errors.Error, OSError)
"""What ends a feed. The consumer builds another one."""
