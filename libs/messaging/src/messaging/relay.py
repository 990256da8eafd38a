"""The relay: moves committed messages from the outbox to the broker, in two ways.

What this process has just committed is still in memory: it is published at once, and what was acknowledged is marked
a little later, many commits together. Everything else (of a process that died or was not connected, or that the broker
refused) is found by the sweep, once it is older than ``GRACE_SECONDS``. There, one transaction locks a batch,
publishes it and marks what was acknowledged. That is the one place with network calls inside a transaction: the row
locks are the fence between relays, the wait is bounded by ``PUBLISH_TIMEOUT_SECONDS``, and a relay that is stopped in
the middle loses its locks to the database's idle-in-transaction timeout.

Where both ways meet the same row, it is published twice under one ``Nats-Msg-Id``.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import nats.errors
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts import headers
from contracts.message import Service
from contracts.registry import produced_by, stream_of
from messaging import metrics
from messaging.broker import Broker
from messaging.broker_watch import StreamWrites
from messaging.database import DATABASE_ERRORS, is_unavailable, single_statements, transaction
from messaging.dead_letters import DeadLetter, DeadLetters
from messaging.failpoints import failpoint
from messaging.ids import new_id, spelled
from messaging.lineage import Lineage
from messaging.outbox import Acknowledged, Outbox, Outgoing, Unpublished
from messaging.positions import RELAY, Checkpoints
from messaging.publisher import PubAck, Publisher, PublishRefusedError
from messaging.topology import find_stream
from messaging.tracing import record_sent
from messaging.transaction import Transactions
from service_runtime.backoff import Backoff

_log = structlog.get_logger("messaging.relay")

BATCH_MESSAGES: Final = 500
PUBLISH_TIMEOUT_SECONDS: Final = 5.0
SWEEP_SECONDS: Final = 1.0
GRACE_SECONDS: Final = 1.0
"""How old a row is before the sweep takes it: until then the process that wrote it publishes it."""

MARK_SECONDS: Final = 0.4
"""How long an acknowledged message may wait for others to be marked with it: well below ``GRACE_SECONDS``.

A full batch does not wait.
"""

_PAUSE_SECONDS: Final = 1.0
_DENIED_PAUSE_SECONDS: Final = 10.0
_BACKOFF: Final = Backoff(first=timedelta(seconds=0.1), longest=timedelta(seconds=5))
"""While the database or the broker is away."""

RESERVED_FROM: Final = 0.95
"""The share of its limit above which a stream takes no history: messages that no order, credit or payment waits for."""
_HELD_BACK_SECONDS: Final = 10.0
"""How long one look at a stream counts; it is looked at every 3 s."""

_STREAM_TROUBLE: Final = {10077: "stream_full", 10047: "storage_full", 503: "no_stream"}
"""Answers that concern the whole stream and may change: it is left alone for a while."""

_NEVER_ACCEPTED: Final = frozenset({10054})
"""The message exceeds the stream's maximum size: it will be refused every time."""


@dataclass(slots=True)
class _Outcome:
    acknowledged: list[Acknowledged] = field(default_factory=list)
    rejected: list[tuple[Unpublished, str]] = field(default_factory=list)


class Relay:
    """Component that publishes the outbox of one service. Any number may run at once.

    Its sweep also finds what is to be replayed of what consumers gave up, and sets ``replays_wanted``.
    """

    def __init__(
        self,
        service: Service,
        engine: AsyncEngine,
        broker: Broker,
        transactions: Transactions,
        lineage: Lineage,
        replays_wanted: asyncio.Event,
    ) -> None:
        self.name = "relay"
        self._replays_wanted = replays_wanted
        self._replica = new_id()
        self._service = service
        self._engine = engine
        self._broker = broker
        self._fresh = transactions.fresh
        self._doorbell = transactions.doorbell
        self._lineage = lineage
        self._spellings: dict[UUID, int] = {}
        self._unmarked: list[tuple[int, Acknowledged]] = []
        self._mark_at = 0.0
        self._sweep_at = 0.0
        self._publisher = Publisher(broker)
        self._outbox = Outbox(service)
        self._dead_letters = DeadLetters(service)
        self.checkpoints = Checkpoints(RELAY)
        self.writes = StreamWrites()
        self._paused_streams: dict[str, float] = {}
        self._paused_subjects: dict[str, float] = {}
        lineage.on_doubt(self._forget)
        self._history = [message.subject for message in produced_by(service) if message.history]
        metrics.start_relay(service, [message.subject for message in produced_by(service)])

    async def run(self) -> None:
        """Publish until cancelled."""
        failures = 0
        async with self._broker.open():
            while True:
                await self._broker.connected()
                await self._lineage.trusted()
                self._doorbell.clear()
                try:
                    await self._turn()
                except Exception as error:
                    if not is_unavailable(error) and not isinstance(error, nats.errors.Error | OSError):
                        raise
                    failures += 1
                    seconds = _BACKOFF.seconds(failures, self._replica)
                    _log.warning("relay_paused", seconds=seconds, error=f"{type(error).__name__}: {error}")
                    await asyncio.sleep(seconds)
                else:
                    failures = 0
                    await self._wait()

    def _forget(self) -> None:
        """The database may be older than what is in memory: the sweep finds what it has."""
        self._fresh.clear()
        self._unmarked.clear()

    def remember_fill(self, stream: str, full: float) -> None:
        """How full a stream is. The last of its room is for what orders wait for: history is held back, and told so."""
        if full < RESERVED_FROM:
            return
        for subject in self._history:
            if stream_of(subject) == stream:
                if subject not in _still_paused(self._paused_subjects):
                    _log.warning("publishing_paused", subject=subject, stream=stream, reason="nearly_full")
                    metrics.PUBLISH_FAILURES.labels(self._service, subject, "nearly_full").inc()
                self._paused_subjects[subject] = time.monotonic() + _HELD_BACK_SECONDS

    async def _turn(self) -> None:
        """Do what is due."""
        if self._fresh:
            await self._publish_fresh()
        if len(self._unmarked) >= BATCH_MESSAGES or (self._unmarked and time.monotonic() >= self._mark_at):
            await self._mark()
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + SWEEP_SECONDS
            await self._sweep()

    async def _sweep(self) -> None:
        """Publish what was left behind, batch by batch; fresh messages are published between the batches."""
        async with single_statements(self._engine) as connection:
            left = await self._outbox.find_left(connection, GRACE_SECONDS)
        if left.unpublished and (await self.relay_batch(GRACE_SECONDS))[1] > 0:
            self._sweep_at = 0.0
        if RELAY in left.replays:
            await self._restore_requested()
        if any(consumer != RELAY for consumer in left.replays):
            self._replays_wanted.set()

    async def _wait(self) -> None:
        due = min(self._mark_at, self._sweep_at) if self._unmarked else self._sweep_at
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due - time.monotonic())):
                await self._doorbell.wait()

    async def _publish_fresh(self) -> None:
        """Publish what this process has committed; what fails here is left to the sweep."""
        paused = {*_still_paused(self._paused_streams), *_still_paused(self._paused_subjects)}
        rows = [self._fresh.popleft() for _ in range(min(len(self._fresh), BATCH_MESSAGES))]
        if self._fresh:
            self._doorbell.set()
        began, epoch = time.monotonic(), self._broker.epoch
        outcome = await self._publish([row for row in rows if not {row.stream, row.subject} & paused])
        failpoint("relay.after_publish")
        if outcome.acknowledged:
            if not self._unmarked:
                self._mark_at = began + MARK_SECONDS
            self._unmarked += ((epoch, entry) for entry in outcome.acknowledged)
            self._count_published(outcome.acknowledged)

    async def _mark(self) -> None:
        """Record what was published fresh."""
        failpoint("relay.before_mark")
        async with single_statements(self._engine) as connection:
            await self._record_published(connection, self._unmarked)
        self._unmarked.clear()

    async def relay_batch(self, older_than_seconds: float = 0.0) -> tuple[int, int]:
        """Lock, publish and mark one batch; returns how many rows were locked and how many left the outbox."""
        async with transaction(self._engine) as connection:
            rows = await self._outbox.lock_unpublished(
                connection,
                BATCH_MESSAGES,
                older_than_seconds,
                _still_paused(self._paused_streams),
                _still_paused(self._paused_subjects),
            )
            if not rows:
                return 0, 0
            failpoint("relay.after_lock")
            epoch = self._broker.epoch
            outcome = await self._publish(rows)
            failpoint("relay.after_publish")
            if outcome.acknowledged:
                await self._record_published(connection, [(epoch, entry) for entry in outcome.acknowledged])
            for row, reason in outcome.rejected:
                await self._dead_letters.add(connection, _rejected(self._service, row, reason))
                await self._outbox.remove(connection, row)
            failpoint("relay.before_commit")
        failpoint("relay.after_commit")
        self._count_published(outcome.acknowledged)
        self._count_rejected(outcome.rejected)
        return len(rows), len(outcome.acknowledged) + len(outcome.rejected)

    async def _restore_requested(self) -> None:
        """Give a message that the broker once refused, and that an operator wants replayed, back to the outbox."""
        async with transaction(self._engine) as connection:
            letter = await self._dead_letters.lock_requested(connection, RELAY)
            if letter is not None:
                rows = await self._outbox.add(connection, [_restored(letter)])
                await self._dead_letters.mark_replayed(connection, letter)
        if letter is not None:
            self._fresh.extend(rows)
            self._doorbell.set()

    async def _publish(self, rows: Sequence[Unpublished]) -> _Outcome:
        """Send all ``rows`` at once and wait for their PubAcks, no longer than the timeout in all."""
        outcome = _Outcome()
        epoch, began_nanoseconds = self._broker.epoch, time.time_ns()
        pending: dict[asyncio.Future[PubAck], Unpublished] = {}
        try:
            for row in rows:
                try:
                    future = await self._publisher.publish(row.subject, row.payload, self._headers(row), row.stream)
                except nats.errors.MaxPayloadError:
                    outcome.rejected.append((row, "larger than the broker's max_payload"))
                else:
                    pending[future] = row
            await self._await_acks(pending)
        except BaseException:
            for future in pending:
                future.cancel()
            raise
        first_sequences = await self._first_sequences_of_duplicates(pending)
        if self._broker.epoch != epoch:
            # These answers may be of the old broker or of the new one: the sweep publishes again.
            for future in pending:
                future.cancel()
            return outcome
        for future, row in pending.items():
            self._sort(row, future, outcome, first_sequences)
        record_sent([entry.row for entry in outcome.acknowledged], began_nanoseconds)
        return outcome

    async def _await_acks(self, pending: dict[asyncio.Future[PubAck], Unpublished]) -> None:
        """Wait for all answers, but not for those that a refusal of the subject makes impossible."""
        deadline = time.monotonic() + PUBLISH_TIMEOUT_SECONDS
        waiting = set(pending)
        epoch = self._broker.epoch
        while waiting and time.monotonic() < deadline and self._broker.epoch == epoch:
            _, waiting = await asyncio.wait(waiting, timeout=min(0.25, deadline - time.monotonic()))
            waiting = {future for future in waiting if pending[future].subject not in self._broker.denied_subjects}

    async def _first_sequences_of_duplicates(self, pending: Iterable[asyncio.Future[PubAck]]) -> dict[str, int]:
        """The first sequence of each stream that says that it has a message already.

        A stream remembers for minutes the ids of what was purged. Only what it has now can tell the two apart.
        """
        acks = [future.result() for future in pending if future.done() and future.exception() is None]
        infos = [
            await find_stream(self._broker.jetstream, name) for name in {ack.stream for ack in acks if ack.duplicate}
        ]
        return {str(info.config.name): info.state.first_seq for info in infos if info is not None}

    def _sort(
        self,
        row: Unpublished,
        future: "asyncio.Future[PubAck]",
        outcome: _Outcome,
        first_sequences: Mapping[str, int],
    ) -> None:
        if not future.done():
            future.cancel()
            if row.subject in self._broker.denied_subjects:
                self._broker.denied_subjects.discard(row.subject)
                self._pause(row, "denied", self._paused_subjects, row.subject, _DENIED_PAUSE_SECONDS)
            else:
                self._pause(row, "timeout", self._paused_streams, row.stream, _PAUSE_SECONDS)
            return
        error = future.exception()
        if error is None:
            ack = future.result()
            if ack.duplicate and ack.stream not in first_sequences:
                # The stream is gone since. The next sweep asks again.
                self._count_failure(row, "stream_gone")
            elif ack.duplicate and ack.sequence < first_sequences[ack.stream]:
                # Purged, and its id is still remembered. The next sweep publishes it under another spelling.
                self._spellings[row.message_id] = self._spellings.get(row.message_id, 0) + 1
                self._count_failure(row, "purged")
            elif ack.stream == row.stream:
                self.writes.accepted(row.stream)
                self._spellings.pop(row.message_id, None)
                outcome.acknowledged.append(Acknowledged(row, ack.sequence))
            else:
                self._pause(row, "wrong_stream", self._paused_subjects, row.subject, _PAUSE_SECONDS)
        elif not isinstance(error, PublishRefusedError):
            raise error
        elif error.code in _NEVER_ACCEPTED:
            outcome.rejected.append((row, error.description))
        elif error.code in _STREAM_TROUBLE:
            self._pause(row, _STREAM_TROUBLE[error.code], self._paused_streams, row.stream, _PAUSE_SECONDS)
        else:
            self._pause(row, f"refused_{error.code}", self._paused_subjects, row.subject, _PAUSE_SECONDS)

    def _pause(self, row: Unpublished, reason: str, paused: dict[str, float], key: str, seconds: float) -> None:
        """Leave the row where it is and take none of its stream or subject for a while, so that it blocks no other."""
        if key not in paused:
            _log.warning("publishing_paused", subject=row.subject, stream=row.stream, reason=reason)
        paused[key] = time.monotonic() + seconds
        if paused is self._paused_streams:
            self.writes.refused(row.stream, reason)
        self._count_failure(row, reason)

    def _headers(self, row: Unpublished) -> dict[str, str]:
        values = message_headers(self._service, row)
        if number := self._spellings.get(row.message_id):
            values[headers.MESSAGE_ID] = spelled(row.message_id, number)
        return values

    def _count_failure(self, row: Unpublished, reason: str) -> None:
        metrics.PUBLISH_FAILURES.labels(self._service, row.subject, reason).inc()

    async def _record_published(
        self, connection: AsyncConnection, acknowledged: Sequence[tuple[int, Acknowledged]]
    ) -> None:
        """Mark what was published over which connection; each stream's rows together with their checkpoint.

        It is dated by the oldest of them: before that was written, the broker cannot have had any of them.

        A server that was not compared yet is told nothing: a checkpoint above what it does not know would hide that.
        What it knows, the sweep finds.
        """
        groups: defaultdict[tuple[int, str], list[Acknowledged]] = defaultdict(list)
        for epoch, entry in acknowledged:
            groups[epoch, entry.row.stream].append(entry)
        for (epoch, stream), entries in sorted(groups.items()):
            last = max(entries, key=lambda entry: entry.sequence)
            oldest = min(entry.row.created_at for entry in entries)
            position = self.checkpoints.advance(stream, last.sequence, last.row.message_id, epoch, oldest)
            if not await self._outbox.mark_published(connection, entries, position, self._lineage.server):
                self._lineage.doubt()
                return

    def _count_published(self, acknowledged: Sequence[Acknowledged]) -> None:
        now = datetime.now(UTC)
        latency = metrics.publish_latency(self._service)
        for entry in acknowledged:
            metrics.published(self._service, entry.row.subject).inc()
            latency.observe(max(0.0, (now - entry.row.created_at).total_seconds()))

    def _count_rejected(self, rejected: Sequence[tuple[Unpublished, str]]) -> None:
        for row, reason in rejected:
            metrics.DEAD_LETTERS.labels(self._service, row.subject, "rejected").inc()
            _log.error("message_rejected", message_id=str(row.message_id), reason=reason)


class OutboxGauge:
    """Component that measures the backlog of the outbox."""

    def __init__(self, service: Service, engine: AsyncEngine, seconds: float = 5.0) -> None:
        self.name = "outbox-gauge"
        self._service = service
        self._engine = engine
        self._seconds = seconds
        self._outbox = Outbox(service)

    async def run(self) -> None:
        """Measure until cancelled; keep the last value while the database is away."""
        while True:
            try:
                async with single_statements(self._engine) as connection:
                    count, oldest = await self._outbox.backlog(connection)
            except DATABASE_ERRORS as error:
                _log.warning("outbox_not_measured", error=str(error))
            else:
                metrics.OUTBOX_BACKLOG.labels(self._service).set(count)
                metrics.OUTBOX_OLDEST.labels(self._service).set(oldest)
            await asyncio.sleep(self._seconds)


def _still_paused(held: dict[str, float]) -> list[str]:
    now = time.monotonic()
    for key in [key for key, until in held.items() if until <= now]:
        del held[key]
    return list(held)


def message_headers(service: Service, row: Unpublished) -> dict[str, str]:
    """The headers under which ``service`` publishes ``row``."""
    values = {
        headers.MESSAGE_ID: str(row.message_id),
        headers.CORRELATION_ID: str(row.correlation_id),
        headers.OCCURRED_AT: row.occurred_at.astimezone(UTC).isoformat(),
        headers.PRODUCER: service,
    }
    if row.causation_id is not None:
        values[headers.CAUSATION_ID] = str(row.causation_id)
    if row.traceparent is not None:
        values[headers.TRACEPARENT] = row.traceparent
    return values


def _rejected(service: Service, row: Unpublished, reason: str) -> DeadLetter:
    return DeadLetter(
        consumer=RELAY,
        message_id=row.message_id,
        subject=row.subject,
        stream=row.stream,
        payload=row.payload,
        headers=message_headers(service, row),
        correlation_id=row.correlation_id,
        reason="rejected",
        error=reason,
        deliveries=0,
    )


def _restored(letter: DeadLetter) -> Outgoing:
    causation_id = letter.headers.get(headers.CAUSATION_ID)
    return Outgoing(
        message_id=letter.message_id,
        subject=letter.subject,
        stream=letter.stream,
        payload=letter.payload,
        correlation_id=UUID(letter.headers[headers.CORRELATION_ID]),
        causation_id=UUID(causation_id) if causation_id is not None else None,
        traceparent=letter.headers.get(headers.TRACEPARENT),
    )
