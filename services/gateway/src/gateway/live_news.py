"""What open requests and streams wait for, fed from core NATS: lossy, immediate, and never relied upon."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from contracts.billing import CreditsRefused, CreditsReserved
from contracts.live import GATEWAY_PROJECTED_PREFIX, PROGRESS_SUBJECT, GenerationProgress
from contracts.payments import PaymentChanged, PaymentRefused
from gateway.errors import NotListening, TooManyEventStreams
from messaging.broker import Broker
from messaging.live import publish_live, subscribe_live

REMEMBERED_PROGRESS: Final = 16
"""Progress that a slow stream has not taken yet; the oldest is dropped, as the newest says it all."""

log = structlog.get_logger(__name__)


class Projected(msgspec.Struct, frozen=True):
    """Some gateway wrote something new about a user."""

    user_id: UUID


@dataclass
class Stream:
    """One open event stream: something to wake it, and the progress it has not sent yet."""

    wake: asyncio.Event = field(default_factory=asyncio.Event)
    progress: dict[UUID, GenerationProgress] = field(default_factory=dict)


class LiveNews:
    """Verdicts by generation or payment id, and open streams by user."""

    name = "live news"

    def __init__(self, streams_per_user: int) -> None:
        self._broker: Broker | None = None
        self._streams_per_user = streams_per_user
        self._verdicts: dict[UUID, list[asyncio.Future[Any]]] = defaultdict(list)
        self._streams: dict[UUID, list[Stream]] = defaultdict(list)
        self._sending: set[asyncio.Task[None]] = set()
        self._listening = asyncio.Event()
        self.closing = asyncio.Event()

    def listen_on(self, broker: Broker) -> None:
        """Say which broker the news comes from and goes to. It is needed by ``run`` and by ``projected``."""
        self._broker = broker

    async def run(self) -> None:
        """Listen until cancelled. Every replica hears everything: there is no queue group."""
        assert self._broker is not None, "listen_on comes first"
        async with self._broker.lease():
            await self._broker.connected()
            for message in (CreditsReserved, CreditsRefused, PaymentChanged, PaymentRefused):
                await subscribe_live(self._broker, message.subject, message, self._verdict)
            await subscribe_live(self._broker, PROGRESS_SUBJECT, GenerationProgress, self._progress)
            await subscribe_live(self._broker, f"{GATEWAY_PROJECTED_PREFIX}.*", Projected, self._elsewhere)
            self._listening.set()
            await asyncio.Event().wait()

    async def ready(self) -> None:
        """Return if verdicts are heard. Raises ``NotListening`` if not."""
        if not self._listening.is_set():
            raise NotListening

    @contextlib.contextmanager
    def expecting(self, subject_id: UUID) -> Iterator[asyncio.Future[Any]]:
        """A future that the verdict about ``subject_id`` resolves. Begin to expect before asking."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._verdicts[subject_id].append(future)
        try:
            yield future
        finally:
            self._verdicts[subject_id].remove(future)
            if not self._verdicts[subject_id]:
                del self._verdicts[subject_id]

    @contextlib.contextmanager
    def streaming(self, user_id: UUID) -> Iterator[Stream]:
        """Register an open stream of a user. Raises ``TooManyEventStreams``."""
        if len(self._streams.get(user_id, ())) >= self._streams_per_user:
            raise TooManyEventStreams(headers={"Retry-After": "5"})
        stream = Stream()
        self._streams[user_id].append(stream)
        try:
            yield stream
        finally:
            self._streams[user_id].remove(stream)
            if not self._streams[user_id]:
                del self._streams[user_id]

    def projected(self, users: set[UUID]) -> None:
        """Wake the streams of these users, here at once and in the other replicas by a message."""
        assert self._broker is not None, "listen_on comes first"
        for user_id in users:
            self._wake(user_id)
            task = asyncio.create_task(
                publish_live(self._broker, f"{GATEWAY_PROJECTED_PREFIX}.{user_id}", Projected(user_id))
            )
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def close(self) -> None:
        """End every stream: the process is about to stop, and clients connect again elsewhere."""
        self.closing.set()
        for streams in self._streams.values():
            for stream in streams:
                stream.wake.set()

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # Streams look by themselves every heartbeat: a lost wake-up costs seconds.
            log.warning("wake_up_not_sent", reason=type(task.exception()).__name__)

    def _wake(self, user_id: UUID) -> None:
        for stream in self._streams.get(user_id, ()):
            stream.wake.set()

    async def _elsewhere(self, _: str, news: Projected) -> None:
        self._wake(news.user_id)

    async def _verdict(self, _: str, message: Any) -> None:
        if isinstance(message, CreditsReserved):
            subject_id = message.order.generation_id
        elif isinstance(message, PaymentChanged):
            if message.payment.checkout_url is None and message.payment.status == "created":
                return
            subject_id = message.payment.payment_id
        elif isinstance(message, CreditsRefused):
            subject_id = message.generation_id
        else:
            subject_id = message.payment_id
        for future in self._verdicts.get(subject_id, ()):
            if not future.done():
                future.set_result(message)

    async def _progress(self, _: str, progress: GenerationProgress) -> None:
        for stream in self._streams.get(progress.user_id, ()):
            stream.progress.pop(progress.generation_id, None)
            stream.progress[progress.generation_id] = progress
            if len(stream.progress) > REMEMBERED_PROGRESS:
                stream.progress.pop(next(iter(stream.progress)))
            stream.wake.set()
