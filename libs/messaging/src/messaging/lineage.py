"""Notices when the *database* is older than the broker: a restored backup, a standby that lacked the last commits.

Either of two facts proves it:

- A message of ours lies in our stream, and our outbox does not have it. It is published only after its commit.
- A consumer has acknowledged a message that its database does not know. It is acknowledged only after its commit.

What was published and not marked, or committed and not acknowledged, is the ordinary remainder of a crash, and proves
nothing.

Nobody can continue from there. What the broker has beyond the database was never ordered, paid or made as far as the
database knows, so no consumer may book it. The service stops consuming and publishing, is not ready, and names the
command that empties the streams. After that each relay publishes its retained outbox again (see ``amnesia``), and the
inboxes drop what they know. ``docs/restore.md`` has the procedure, ``docs/decisions`` the reasons.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.message import Service
from contracts.registry import produced_by, stream_of
from contracts.streams import STREAMS
from messaging import metrics
from messaging.batches import Batches
from messaging.broker import Broker
from messaging.database import is_unavailable, single_statements, transaction
from messaging.errors import BrokerUnavailableError, DatabaseWentBackError, FeedLostError
from messaging.ids import time_of, uuid_or_none
from messaging.positions import RELAY, Positions
from messaging.schema import REPLAY_WINDOW_DAYS
from messaging.sql import statement
from messaging.topology import find_stream
from messaging.verifier import StoredMessage, Verifier

_log = structlog.get_logger("messaging.lineage")

REMEDY: Final = "python -m provisioning after-restore"

_DATABASE_AWAY_SECONDS: Final = 1.0
COMPARE_EVERY: Final = timedelta(minutes=1)
"""How often our newest messages are looked up while nothing gives cause for it."""
MOST_COMPARED: Final = 1000
"""So many messages above the newest checkpoint are looked up: more than relays have published and not marked yet."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A message that the broker has and the database does not know.

    ``holder`` is ``relay``, or the durable that has acknowledged it. ``sequence`` is where the message lies, and
    ``stream_created_at`` tells whether the stream is still the same.
    """

    holder: str
    stream: str
    sequence: int
    message_id: str
    stream_created_at: datetime | None


class Lineage:
    """Whether the database is at least as new as the broker. Not trusted until the first comparison is done."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._trusted = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._evidence: dict[str, Evidence] = {}
        self.server: datetime | None = None
        """When the server was started that was compared last, by its own clock: that tells servers apart."""
        metrics.DATABASE_BEHIND.labels(service).set(0)

    @property
    def evidence(self) -> Sequence[Evidence]:
        """What speaks against the database."""
        return list(self._evidence.values())

    @property
    def is_trusted(self) -> bool:
        """Whether the database may be worked with."""
        return self._trusted.is_set()

    async def trusted(self) -> None:
        """Return as soon as the database may be worked with."""
        await self._trusted.wait()

    async def ready(self) -> None:
        """Return if the database may be worked with. Raises DatabaseWentBackError or BrokerUnavailableError."""
        if self._evidence:
            raise DatabaseWentBackError(_described(self.evidence[0]))
        if not self.is_trusted:
            raise BrokerUnavailableError("the database has not been compared with the broker yet")

    def on_doubt(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when the database may have become another one: whoever works with it begins anew."""
        self._listeners.append(listener)

    def trust(self, server: datetime | None = None) -> None:
        """The comparison with ``server`` found nothing."""
        self.server = server
        if self._evidence:
            _log.info("database_trusted_again", service=self._service)
        self._evidence.clear()
        metrics.DATABASE_BEHIND.labels(self._service).set(0)
        self._trusted.set()

    def doubt(self) -> None:
        """Stop, until the next comparison."""
        self._trusted.clear()
        for listener in self._listeners:
            listener()

    def accuse(self, evidence: Evidence) -> None:
        """The database went back: stop until the streams have been emptied."""
        if evidence.holder not in self._evidence:
            _log.error(
                "database_went_back",
                service=self._service,
                holder=evidence.holder,
                stream=evidence.stream,
                sequence=evidence.sequence,
                message_id=evidence.message_id,
                remedy=REMEDY,
            )
        self._evidence[evidence.holder] = evidence
        metrics.DATABASE_BEHIND.labels(self._service).set(1)
        self.doubt()


class LineageWatch:
    """Compares the newest messages of this service with its outbox; part of the amnesia watch's checks."""

    def __init__(self, service: Service, engine: AsyncEngine, broker: Broker, lineage: Lineage) -> None:
        self._engine = engine
        self._broker = broker
        self._lineage = lineage
        self._service = service
        self._owned = [spec.name for spec in STREAMS if spec.owner == service]
        self._subjects = [
            message.subject for message in produced_by(service) if stream_of(message.subject) in self._owned
        ]
        self._verifier = Verifier(service, broker)
        self._positions = Positions(service)
        self._seen: tuple[datetime, int] | None = None
        self._looked_at = datetime.min.replace(tzinfo=UTC)
        self._known = statement(
            service,
            """
            SELECT EXISTS (SELECT FROM {schema}.outbox_messages WHERE message_id = :message_id), now()
            """,
        )

    async def check(self, started_at: datetime, now: datetime) -> None:
        """Compare at the first call, after a reconnect or a restart of the database, and once a minute.

        The database has just said that its server was started at ``started_at``, and that it is ``now``.
        """
        epoch = self._broker.epoch
        if self._seen is not None and self._seen[0] != started_at:
            # Another server may answer now, or the same one with older data.
            self._lineage.doubt()
        if self._seen == (started_at, epoch) and self._lineage.is_trusted and now - self._looked_at < COMPARE_EVERY:
            return
        unknown = await self._find_unknown_message()
        if unknown is None:
            unknown = await self._standing_evidence()
        if unknown is not None:
            self._lineage.accuse(unknown)
            return
        self._lineage.trust(started_at)
        self._seen, self._looked_at = (started_at, epoch), now

    async def _find_unknown_message(self) -> Evidence | None:
        """A message of ours that our stream has and our outbox never had."""
        for stream in self._owned:
            info = await find_stream(self._broker.jetstream, stream)
            async with single_statements(self._engine) as connection:
                sequence = await self._positions.highest(connection, RELAY, stream) + 1
            if info is None or info.state.last_seq < sequence:
                continue
            async with transaction(self._engine) as connection:
                await self._positions.lock_verification(connection, stream)
                await self._verifier.expect(stream)
                found = await self._first_unknown(connection, stream, sequence, info.state.last_seq)
            if found is not None:
                return Evidence(RELAY, stream, found.sequence, str(found.message_id), info.created)
        return None

    async def _first_unknown(
        self, connection: AsyncConnection, stream: str, sequence: int, last_sequence: int
    ) -> StoredMessage | None:
        """The first message above the newest checkpoint that our outbox does not have.

        What was published and not marked comes before it, and after it may come what was committed since.
        """
        for _ in range(MOST_COMPARED):
            found = await self._verifier.first_from(stream, self._subjects, sequence)
            if found is None or found.sequence > last_sequence:
                return None
            if found.producer == self._service and await self._is_unknown(connection, found):
                return found
            sequence = found.sequence + 1
        return None

    async def _is_unknown(self, connection: AsyncConnection, found: StoredMessage) -> bool:
        message_id = uuid_or_none(found.message_id)
        made_at = None if message_id is None else time_of(message_id)
        if made_at is None:
            return False
        # Asked after the broker was: what it has was committed before. Older rows may have been dropped.
        is_known, now = (await connection.execute(self._known, {"message_id": message_id})).one()
        return not is_known and now - made_at < timedelta(days=REPLAY_WINDOW_DAYS)

    async def _standing_evidence(self) -> Evidence | None:
        """What a consumer found, unless its stream was emptied since."""
        for evidence in self._lineage.evidence:
            if evidence.holder != RELAY:
                info = await find_stream(self._broker.jetstream, evidence.stream)
                is_same = info is not None and info.created == evidence.stream_created_at
                if is_same and info is not None and info.state.first_seq <= evidence.sequence:
                    return evidence
        return None


class FloorCheck:
    """Compares what one durable has acknowledged with what its inbox knows, before anything is consumed.

    The acknowledgement follows the commit, and the commit leaves a checkpoint at or above it. So an ack floor beyond
    the newest checkpoint means one of two things: the broker passed messages that the durable does not read, or the
    database is older. Which one, the messages between tell.
    """

    def __init__(self, engine: AsyncEngine, broker: Broker, lineage: Lineage, stream: str, batches: Batches) -> None:
        self._engine = engine
        self._broker = broker
        self._lineage = lineage
        self._stream = stream
        self._batches = batches
        self._verifier = Verifier(batches.service, broker)
        self._positions = Positions(batches.service)

    async def passes(self) -> bool:
        """Whether everything that was acknowledged is known. Raises FeedLostError while that cannot be told."""
        try:
            # One replica at a time, and not while the checkpoints are being forgotten.
            async with transaction(self._engine) as connection:
                await self._positions.lock_recovery(connection)
                unknown = await self._find_unknown(connection)
        except BrokerUnavailableError as error:
            raise FeedLostError("the broker was not looked into before the first message") from error
        except Exception as error:
            if not is_unavailable(error):
                raise
            await asyncio.sleep(_DATABASE_AWAY_SECONDS)
            raise FeedLostError("the database was away before the first message") from error
        if unknown is not None:
            self._lineage.accuse(unknown)
        return unknown is None

    async def _find_unknown(self, connection: AsyncConnection) -> Evidence | None:
        jetstream, durable = self._broker.jetstream, self._batches.durable
        # The floor first: what it covers was committed before.
        floor = (await jetstream.consumer_info(self._stream, durable)).ack_floor
        known = await self._positions.highest(connection, durable, self._stream)
        info = await find_stream(jetstream, self._stream)
        if floor is None or info is None or not known < floor.stream_seq <= info.state.last_seq:
            return None
        await self._positions.lock_verification(connection, self._stream)
        await self._verifier.expect(self._stream)
        sequence = known + 1
        while (found := await self._verifier.first_from(self._stream, self._batches.subjects, sequence)) is not None:
            if found.sequence > floor.stream_seq:
                return None
            if not await self._batches.is_known(connection, found):
                return Evidence(durable, self._stream, found.sequence, str(found.message_id), info.created)
            sequence = found.sequence + 1
        return None


def _described(evidence: Evidence) -> str:
    return (
        f"the database is older than the broker: {evidence.holder} has message {evidence.message_id} of"
        f" {evidence.stream} ({evidence.sequence}), which the database does not know. {REMEDY} heals it;"
        " see docs/restore.md"
    )
