"""What open requests and event streams wait for, fed from core NATS: lossy and immediate.

Nothing depends on it: a message that is lost costs a moment, because waiting requests poll and streams read again at
every heartbeat.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, get_args
from uuid import UUID

import msgspec
import structlog

from contracts.billing import CreditsRefused, CreditsReserved
from contracts.live import (
    ESTIMATES_SUBJECT,
    GATEWAY_PROJECTED_PREFIX,
    PROGRESS_SUBJECT,
    GenerationProgress,
    QueueEstimates,
)
from contracts.payments import PaymentChanged, PaymentRefused
from gateway.errors import NotListening, TooManyEventStreams
from gateway.estimates import Estimate, Estimates, estimates_of
from gateway.events import GenerationEstimated
from gateway.metrics import OPEN_STREAMS
from messaging.broker import Broker
from messaging.live import publish_live, subscribe_live

MAX_PENDING_PROGRESS: Final = 16
"""Generations whose progress a slow stream has not sent yet; the oldest is dropped."""
MAX_TOLD: Final = 256
"""Generations of which a stream knows what it said last: more than a user may have under way."""
FIRST_POLL_SECONDS: Final = 0.25
"""How long a waiting request only listens before it reads the database; mostly the answer comes within milliseconds."""

Reply = CreditsReserved | CreditsRefused | PaymentChanged | PaymentRefused
"""What an open request waits for."""

log = structlog.get_logger(__name__)


class Projected(msgspec.Struct, frozen=True):
    """A replica added to the histories of ``user_id`` and of the ``others``, in one transaction."""

    user_id: UUID
    others: tuple[UUID, ...] = ()


@dataclass
class Stream:
    """One open event stream: what wakes it, and the progress and estimates it has not sent yet, by generation."""

    wake: asyncio.Event = field(default_factory=asyncio.Event)
    progress: dict[UUID, GenerationProgress] = field(default_factory=dict)
    estimates: dict[UUID, GenerationEstimated] = field(default_factory=dict)
    _told: dict[UUID, Estimate] = field(default_factory=dict)

    def take_progress(self) -> list[GenerationProgress]:
        """The progress that is due, each generation's newest."""
        taken = list(self.progress.values())
        self.progress.clear()
        return taken

    def take_estimates(self) -> list[GenerationEstimated]:
        """The estimates that are due, each generation's newest."""
        taken = list(self.estimates.values())
        self.estimates.clear()
        return taken

    def tell(self, generation_id: UUID, estimate: Estimate, now: datetime) -> None:
        """Send this estimate, unless it is as good as the last one."""
        told = self._told.get(generation_id)
        if told is not None and not estimate.differs(told, now):
            return
        self._told[generation_id] = estimate
        if len(self._told) > MAX_TOLD:
            self._told.pop(next(iter(self._told)))
        self.estimates[generation_id] = estimate.event(generation_id)
        if len(self.estimates) > MAX_TOLD:
            self.estimates.pop(next(iter(self.estimates)))
        self.wake.set()


class LiveEvents:
    """Waiting requests by generation or payment id, and open streams by user."""

    name = "live-events"

    def __init__(self, streams_per_user: int) -> None:
        self.estimates = Estimates()
        self._broker: Broker | None = None
        self._streams_per_user = streams_per_user
        self._waiting: dict[UUID, list[asyncio.Future[Reply]]] = defaultdict(list)
        self._streams: dict[UUID, list[Stream]] = defaultdict(list)
        self._sending: set[asyncio.Task[None]] = set()
        self._listening = asyncio.Event()
        self.closing = asyncio.Event()

    def listen_on(self, broker: Broker) -> None:
        """Choose the broker to listen on and publish to. ``run`` and ``projected`` need it."""
        self._broker = broker

    async def run(self) -> None:
        """Listen until cancelled. Every replica hears everything: there is no queue group."""
        assert self._broker is not None, "listen_on comes first"
        async with self._broker.open():
            await self._broker.connected()
            for kind in get_args(Reply):
                await subscribe_live(self._broker, kind.subject, kind, self._resolve)
            await subscribe_live(self._broker, PROGRESS_SUBJECT, GenerationProgress, self._pass_on)
            await subscribe_live(self._broker, ESTIMATES_SUBJECT, QueueEstimates, self._estimated)
            await subscribe_live(self._broker, f"{GATEWAY_PROJECTED_PREFIX}.*", Projected, self._projected_elsewhere)
            self._listening.set()
            await asyncio.Event().wait()

    async def ready(self) -> None:
        """Return if the subscriptions stand. Raises ``NotListening`` if they do not."""
        if not self._listening.is_set():
            raise NotListening

    @contextlib.contextmanager
    def expecting(self, subject_id: UUID) -> Iterator[asyncio.Future[Reply]]:
        """A future that the reply about ``subject_id`` resolves. Enter this before the message is published."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[subject_id].append(future)
        try:
            yield future
        finally:
            self._waiting[subject_id].remove(future)
            if not self._waiting[subject_id]:
                del self._waiting[subject_id]

    @contextlib.contextmanager
    def streaming(self, user_id: UUID) -> Iterator[Stream]:
        """Register an open stream of a user. Raises ``TooManyEventStreams``."""
        if len(self._streams.get(user_id, ())) >= self._streams_per_user:
            raise TooManyEventStreams(headers={"Retry-After": "5"})
        stream = Stream()
        self._streams[user_id].append(stream)
        OPEN_STREAMS.inc()
        try:
            yield stream
        finally:
            OPEN_STREAMS.dec()
            self._streams[user_id].remove(stream)
            if not self._streams[user_id]:
                del self._streams[user_id]

    def projected(self, users: set[UUID]) -> None:
        """Wake the streams of these users: here at once, in other replicas by one message for all."""
        assert self._broker is not None, "listen_on comes first"
        if not users:
            return
        for user_id in users:
            self._wake(user_id)
        first, *others = users
        message = Projected(first, tuple(others))
        task = asyncio.create_task(publish_live(self._broker, f"{GATEWAY_PROJECTED_PREFIX}.{first}", message))
        self._sending.add(task)
        task.add_done_callback(self._sent)

    def close(self) -> None:
        """End every stream: the process is about to stop, and clients reconnect to another replica."""
        self.closing.set()
        for streams in self._streams.values():
            for stream in streams:
                stream.wake.set()

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # Streams read the history at every heartbeat: a lost wake-up costs seconds.
            log.warning("wake_up_not_sent", reason=type(task.exception()).__name__)

    def _wake(self, user_id: UUID) -> None:
        for stream in self._streams.get(user_id, ()):
            stream.wake.set()

    async def _projected_elsewhere(self, _: str, projected: Projected) -> None:
        for user_id in (projected.user_id, *projected.others):
            self._wake(user_id)

    async def _resolve(self, _: str, reply: Reply) -> None:
        subject_id = _subject_of(reply)
        if subject_id is None:
            return
        for future in self._waiting.get(subject_id, ()):
            if not future.done():
                future.set_result(reply)

    async def _estimated(self, _: str, message: QueueEstimates) -> None:
        if not self.estimates.keep(message):
            return
        for user_id, streams in self._streams.items():
            for generation_id, estimate in estimates_of(message, user_id):
                for stream in streams:
                    stream.tell(generation_id, estimate, message.made_at)

    async def _pass_on(self, _: str, progress: GenerationProgress) -> None:
        for stream in self._streams.get(progress.user_id, ()):
            replaced = stream.progress.pop(progress.generation_id, None)
            if replaced is not None and progress.preview is None:
                # A worker sends each preview once: the newest number must not take the picture away.
                progress = msgspec.structs.replace(progress, preview=replaced.preview)
            stream.progress[progress.generation_id] = progress
            if len(stream.progress) > MAX_PENDING_PROGRESS:
                stream.progress.pop(next(iter(stream.progress)))
            stream.wake.set()


def _subject_of(reply: Reply) -> UUID | None:
    """The generation or payment whose reply this is; None for a payment that has no reply yet."""
    if isinstance(reply, CreditsReserved):
        return reply.order.generation_id
    if isinstance(reply, CreditsRefused):
        return reply.generation_id
    if isinstance(reply, PaymentRefused):
        return reply.payment_id
    payment = reply.payment
    return None if payment.status == "created" and payment.checkout_url is None else payment.payment_id


async def wait_for_reply(
    reply: asyncio.Future[Reply],
    seconds: float,
    is_recorded: Callable[[], Awaitable[bool]],
    cut_short: asyncio.Future[None] | None = None,
) -> None:
    """Wait until the reply is heard or recorded, for at most ``seconds``: the request is durable either way.

    A live message may be lost, or may have come before this request did. So ``is_recorded`` reads the database, less
    and less often. ``cut_short`` ends the wait when it is done.
    """
    deadline = time.monotonic() + seconds
    pause = FIRST_POLL_SECONDS
    awaited: list[asyncio.Future[Any]] = [reply] if cut_short is None else [reply, cut_short]
    while (remaining := deadline - time.monotonic()) > 0:
        done, _ = await asyncio.wait(awaited, timeout=min(pause, remaining), return_when=asyncio.FIRST_COMPLETED)
        if done or await is_recorded():
            return
        pause *= 2
