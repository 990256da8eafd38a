"""Notices when the broker has forgotten messages, and publishes them again.

See ``positions`` for what is remembered, and the README for what a successful check proves.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Final
from uuid import UUID

import nats.errors
import sqlalchemy.exc
import structlog
from nats.js.api import StreamInfo
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.message import Service
from contracts.streams import STREAMS
from messaging import metrics
from messaging.broker import Broker
from messaging.database import single_statements, transaction
from messaging.errors import BrokerUnavailableError, DatabaseUnavailableError, NotProvisionedError
from messaging.ids import uuid_or_none
from messaging.lineage import Lineage, LineageWatch
from messaging.outbox import Outbox
from messaging.positions import EXPIRY_MARGIN, RELAY, Checkpoints, Position, Positions
from messaging.stream_look import StreamLook, look_at
from messaging.topology import find_consumer, find_stream, hold_against, stream_config, stream_differences
from messaging.transaction import Transactions
from messaging.verifier import Verifier

_log = structlog.get_logger("messaging.amnesia")

CHECK_SECONDS: Final = 3.0
LOOK_INTO_SECONDS: Final = 60.0
"""How often the messages of a stream are looked into of which the broker says that nothing has changed."""
_AWAIT_SECONDS: Final = 0.5

_TRANSIENT: Final = (
    nats.errors.Error,
    OSError,
    sqlalchemy.exc.SQLAlchemyError,
    DatabaseUnavailableError,
    BrokerUnavailableError,
)


@dataclass(frozen=True, slots=True)
class _Found:
    """Checkpoints that were found intact in a stream, and what the stream held before it was looked into."""

    look: StreamLook
    checkpoints: frozenset[tuple[UUID, int]]
    at: float

    def stands(self, look: StreamLook, positions: Sequence[Position]) -> bool:
        """Whether ``look`` says the same of these ``positions`` without looking into the stream again."""
        unchanged = look.epoch == self.look.epoch and look.contents == self.look.contents
        return (
            unchanged
            and time.monotonic() - self.at < LOOK_INTO_SECONDS
            and all(one.verified_at is not None and one.key in self.checkpoints for one in positions)
        )


class AmnesiaWatch:
    """Component that waits for the service's stream and compares the broker's memory with ours.

    It checks at start, after each reconnect and every ``CHECK_SECONDS``. Raises ConfigurationMismatchError if the
    service's own stream is kept in a way that would lose messages.
    """

    def __init__(
        self,
        service: Service,
        engine: AsyncEngine,
        broker: Broker,
        transactions: Transactions,
        checkpoints: Sequence[Checkpoints],
        replicas: int,
        lineage: Lineage,
        remember_fill: Callable[[str, float], None],
    ) -> None:
        self.name = "amnesia-watch"
        self._service = service
        self._engine = engine
        self._broker = broker
        self._doorbell = transactions.doorbell
        self._checkpoints = checkpoints
        self._replicas = replicas
        self._owned = {spec.name: spec for spec in STREAMS if spec.owner == service}
        self._outbox = Outbox(service)
        self._remember_fill = remember_fill
        self._lineage_watch = LineageWatch(service, engine, broker, lineage)
        self._positions = Positions(service)
        self._check_now = asyncio.Event()
        self._verifier = Verifier(service, broker)
        self._found: dict[tuple[str, str], _Found] = {}
        self._waits_for: BrokerUnavailableError | None = BrokerUnavailableError(
            "the service's stream was not compared yet"
        )
        for stream in self._owned:
            metrics.AMNESIA.labels(service, stream)
        broker.on_reconnect(self._check_now.set)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with self._broker.open():
            while True:
                await self._broker.connected()
                self._check_now.clear()
                try:
                    await self.check()
                except _TRANSIENT as error:
                    _log.warning("broker_memory_not_checked", error=f"{type(error).__name__}: {error}")
                    await asyncio.sleep(0.2)
                    continue
                await self._wait()

    async def ready(self) -> None:
        """Return if this service's own stream is there as expected. Raises BrokerUnavailableError otherwise."""
        if self._waits_for is not None:
            raise self._waits_for

    async def check(self) -> None:
        """Compare our stream with what we expect, and verify every checkpoint; recover where one is broken."""
        await self._compare()
        async with single_statements(self._engine) as connection:
            due = await self._positions.due(connection)
        await self._lineage_watch.check(due.started_at, due.read_at)
        # After the checkpoints were read: what they name, the stream had before.
        looks = {stream: await look_at(self._broker, stream) for stream in {one.stream for one in due.positions}}
        for (holder, stream), group in groupby(due.positions, key=lambda position: (position.holder, position.stream)):
            look = looks[stream]
            if look is not None:  # Otherwise the provisioner makes it; the next check sees that it is another one.
                await self._verify(holder, stream, list(group), look)

    async def _compare(self) -> None:
        missing: NotProvisionedError | None = None
        for spec in self._owned.values():
            look = await look_at(self._broker, spec.name)
            if look is None:
                missing = NotProvisionedError(f"the stream {spec.name} is missing")
            else:
                info = look.info
                metrics.show_stream(spec.name, info.state.bytes, info.config.max_bytes, info.config.max_age)
                if info.config.max_bytes and info.config.max_bytes > 0:
                    self._remember_fill(spec.name, info.state.bytes / info.config.max_bytes)
                wanted = stream_config(spec, self._replicas)
                hold_against(f"stream {spec.name}", stream_differences(wanted, info.config))
        if missing is not None and self._waits_for is None:
            _log.warning("stream_awaited", error=str(missing))
        self._waits_for = missing

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(CHECK_SECONDS if self._waits_for is None else _AWAIT_SECONDS):
                await self._check_now.wait()
        except TimeoutError:
            return

    async def _verify(self, holder: str, stream: str, positions: Sequence[Position], look: StreamLook) -> None:
        if look.info.created is not None and look.epoch == self._broker.epoch:
            for checkpoints in self._checkpoints:
                checkpoints.remember_stream(stream, look.info.created, look.epoch)
        found = self._found.pop((holder, stream), None)
        if found is None or not found.stands(look, positions):
            found = await self._look_into(holder, stream, positions, look)
        if found is None:
            await self._recover(holder, stream)
        else:
            self._found[holder, stream] = found

    async def _look_into(
        self, holder: str, stream: str, positions: Sequence[Position], look: StreamLook
    ) -> _Found | None:
        """Look for each of the ``positions`` in the stream. None if one of them is not there."""
        began = time.monotonic()
        async with transaction(self._engine) as connection:
            await self._positions.lock_verification(connection, stream)
            await self._verifier.expect(stream)
            if not await self._are_intact(positions, look.info):
                return None
            unverified = [position for position in positions if position.verified_at is None]
            if unverified:
                await self._positions.mark_verified(connection, holder, stream, unverified)
        return _Found(look, frozenset(position.key for position in positions), began)

    async def _are_intact(self, positions: Sequence[Position], info: StreamInfo) -> bool:
        for position in positions:
            if not await self._is_intact(position, info):
                return False
        return True

    async def _is_intact(self, position: Position, info: StreamInfo) -> bool:
        """Whether the stream still has our message under our sequence, or has let it expire in order."""
        if position.stream_created_at is not None and position.stream_created_at != info.created:
            return False
        if info.state.last_seq < position.sequence:
            return False
        if position.sequence < info.state.first_seq:
            return _may_have_expired(position, info)
        message_id = await self._verifier.message_id(position.stream, position.sequence)
        if message_id is None:
            latest = await find_stream(self._broker.jetstream, position.stream)
            is_below = latest is not None and position.sequence < latest.state.first_seq
            return is_below and _may_have_expired(position, info)
        return uuid_or_none(message_id) == position.message_id

    async def _recover(self, holder: str, stream: str) -> None:
        """Publish again what is lost, or build the consumer again. One replica does it, the others find it done.

        Checkpoints are removed first, rows are reset after that, with a newer snapshot. A batch that commits in
        between leaves a checkpoint of its own, which the next check finds broken.
        """
        async with transaction(self._engine) as connection:
            await self._positions.lock_recovery(connection)
            await self._positions.lock_verification(connection, stream)
            positions = await self._positions.all(connection, holder, stream)
            intact = await self._intact_sequence(stream, positions)
            if intact is None:
                return
            if holder == RELAY:
                await self._positions.forget(connection, holder, stream, above_sequence=intact)
                count = await self._outbox.forget_published(connection, stream, above_sequence=intact)
            else:
                await self._positions.forget(connection, holder, stream, above_sequence=0)
                count = 0
                await self._rewind_consumer(stream, holder)
        metrics.AMNESIA.labels(self._service, stream).inc()
        _log.error("broker_amnesia", holder=holder, stream=stream, intact_sequence=intact, republished=count)
        self._doorbell.set()

    async def _intact_sequence(self, stream: str, positions: Sequence[Position]) -> int | None:
        """The sequence up to which nothing is lost; 0 if that cannot be told, None if every checkpoint is intact.

        An intact checkpoint proves that only if it is older than the loss: the stream may have grown again since, under
        the sequences that it lost. A checkpoint that was verified before a lost batch's transaction began is older.
        """
        info = await find_stream(self._broker.jetstream, stream)
        if info is None:
            raise BrokerUnavailableError(f"stream {stream} went away during recovery")
        intact = [position for position in positions if await self._is_intact(position, info)]
        lost = [position.recorded_at for position in positions if position not in intact and position.recorded_at]
        if not lost:
            return None
        older = [one for one in intact if one.verified_at is not None and one.verified_at <= min(lost)]
        return max((position.sequence for position in older), default=0)

    async def _rewind_consumer(self, stream: str, durable: str) -> None:
        """Its position in the stream is meaningless now: it reads from the start. A new one does so anyway."""
        if await find_consumer(self._broker.jetstream, stream, durable) is not None:
            await self._broker.jetstream.reset_consumer(stream, durable, seq=1)


def _may_have_expired(position: Position, info: StreamInfo) -> bool:
    """Whether a message below the first one of its stream may have left it in order, or was purged.

    What a consumer remembers says nothing about that: it has handled those messages, and the relays of their producers
    publish again what other readers have not.
    """
    if position.holder != RELAY or position.age is None or not info.config.max_age:
        return True
    return position.age > timedelta(seconds=info.config.max_age) - EXPIRY_MARGIN
