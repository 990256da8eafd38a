"""The unit of work: a state change and the messages that announce it commit together or not at all."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.message import Message, Service
from contracts.registry import stream_of
from contracts.streams import BY_NAME
from messaging.database import single_statements, transaction
from messaging.errors import ForeignSubjectError, MessageTooLargeError
from messaging.failpoints import failpoint
from messaging.ids import new_id
from messaging.outbox import Outbox, Outgoing, Unpublished, Writes, message_values, stored
from messaging.positions import Position, Positions
from messaging.received import Received
from messaging.tracing import traceparent_for
from service_runtime.statements import Record, Statement
from service_runtime.tracing import step

_log = structlog.get_logger("messaging.transaction")
_encoder = msgspec.json.Encoder()

FRESH_MESSAGES: Final = 2000
"""How many committed messages wait in memory for the relay; what is more, it finds in the outbox."""
HEADER_BYTES: Final = 1024
"""Set aside for the headers, which the broker counts too; ours take less than half of it."""


class Transaction:
    """One open database transaction. Made by :meth:`Transactions.begin`."""

    def __init__(self, connection: AsyncConnection, producer: Service, outbox: Outbox) -> None:
        self.connection = connection
        self._producer = producer
        self._outbox = outbox
        self._outgoing: list[Outgoing] = []
        self._stored: list[Unpublished] = []
        self._deferred: dict[UUID, str] = {}
        self._after_commit: list[Callable[[], None]] = []
        self._unless_committed: list[Callable[[], None]] = []
        self._last: tuple[Writes, Mapping[str, object], list[Any]] | None = None
        self.position: Position | None = None
        """A checkpoint that is written with what is published."""

    def publish(
        self,
        message: Message,
        *,
        correlation_id: UUID | None = None,
        cause: Received[Any] | None = None,
        message_id: UUID | None = None,
        traceparent: str | None = None,
    ) -> UUID:
        """Announce ``message`` if and when this transaction commits; returns its id.

        ``correlation_id`` defaults to that of ``cause``; one of the two is needed. The trace continues from ``cause``,
        or else from ``traceparent``, or else from what is being done now. Raises ForeignSubjectError if the
        contracts do not name this service as a producer, and MessageTooLargeError beyond the stream's limit.
        """
        outgoing = _outgoing(self._producer, message, correlation_id, cause, message_id, traceparent)
        self._outgoing.append(outgoing)
        return outgoing.message_id

    async def write(self, writes: Writes, values: Mapping[str, object]) -> Sequence[Any]:
        """Send ``writes``, and with it what is published so far; returns its result.

        What a handler writes last should go this way: the statement for the outbox alone is spared. What is published
        so far is dropped where ``writes.when`` does not hold.
        """
        rows, result = await self._outbox.add_with(self.connection, self._outgoing, self.position, writes, values)
        self._stored += rows
        self._outgoing, self.position = [], None
        return result

    async def write_last(
        self,
        writes: Writes,
        values: Mapping[str, object],
        then: Callable[[Sequence[Any]], None] | None = None,
    ) -> None:
        """Send ``writes`` when everything else is sent, and call ``then`` with its result after the commit.

        If nothing else is sent, it is a transaction of its own: one round trip instead of three.
        """
        if self._last is not None:
            await self._send_last(is_last=False)
        result: list[Any] = []
        self._last = (writes, values, result)
        if then is not None:
            self._after_commit.append(partial(then, result))

    async def finish(self, positions: Positions) -> list[Unpublished]:
        """Write what is left of the messages and the checkpoint; returns all messages of this transaction."""
        if self._last is not None:
            # This may be the commit.
            failpoint("transaction.before_commit")
            await self._send_last(is_last=True)
        elif self._outgoing:
            self._stored += await self._outbox.add(self.connection, self._outgoing, self.position)
        elif self.position is not None:
            await positions.put(self.connection, self.position)
        return self._stored

    async def _send_last(self, *, is_last: bool) -> None:
        assert self._last is not None
        (writes, values, result), self._last = self._last, None
        rows, found = await self._outbox.add_with(
            self.connection, self._outgoing, self.position, writes, values, is_last=is_last
        )
        self._stored += rows
        self._outgoing, self.position = [], None
        result.extend(found)

    def defer(self, received: Received[Any], reason: str) -> None:
        """Say that ``received`` is early: it is not marked as received, and is delivered again after growing pauses."""
        self._deferred[received.message_id] = reason

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once this transaction has committed. It must be quick and must not raise."""
        self._after_commit.append(callback)

    def unless_committed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` if this transaction fails, also if nobody knows whether it has committed.

        It must be quick and must not raise.
        """
        self._unless_committed.append(callback)

    @property
    def outgoing(self) -> list[Outgoing]:
        """The messages published so far."""
        return [*self._stored, *self._outgoing]

    @property
    def deferred(self) -> dict[UUID, str]:
        """Why each message that was deferred is early."""
        return self._deferred

    def committed(self) -> None:
        """Run what waited for the commit. What fails here is logged: it must not look as if the commit had failed."""
        for callback in self._after_commit:
            try:
                callback()
            except Exception:  # noqa: BLE001 - whatever it is, the commit stands
                _log.exception("after_commit_callback_failed")

    def failed(self) -> None:
        """Run what was to be undone here."""
        for callback in self._unless_committed:
            callback()


def _outgoing(
    producer: Service,
    message: Message,
    correlation_id: UUID | None,
    cause: Received[Any] | None,
    message_id: UUID | None,
    traceparent: str | None,
) -> Outgoing:
    """The row of a message; :meth:`Transaction.publish` says what it raises."""
    if producer not in message.producers:
        raise ForeignSubjectError(producer, message.subject)
    correlation = correlation_id or (cause.correlation_id if cause is not None else None)
    if correlation is None:
        raise TypeError("publish needs a correlation_id or a cause")
    stream = stream_of(message.subject)
    payload = _encoder.encode(message)
    limit = BY_NAME[stream].max_message_bytes - HEADER_BYTES
    if len(payload) > limit:
        raise MessageTooLargeError(message.subject, len(payload), limit)
    identity = message_id or new_id()
    return Outgoing(
        message_id=identity,
        subject=message.subject,
        stream=stream,
        payload=payload,
        correlation_id=correlation,
        causation_id=cause.message_id if cause is not None else None,
        traceparent=traceparent_for(identity, message.subject, correlation, cause, traceparent),
    )


class Transactions:
    """Opens transactions on one engine for one service; one object per process.

    Each commit leaves its messages in ``fresh`` too and rings ``doorbell``, so that the relay in this process need not
    look for them. What is lost from there is found in the outbox.
    """

    def __init__(self, engine: AsyncEngine, producer: Service) -> None:
        self.engine = engine
        self.producer: Service = producer
        self.fresh: deque[Unpublished] = deque(maxlen=FRESH_MESSAGES)
        self.doorbell = asyncio.Event()
        self._outbox = Outbox(producer)
        self._positions = Positions(producer)
        self._span_attributes = {"db.system.name": "postgresql", "db.namespace": producer}

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        """BEGIN; at a clean exit write what is left of the outbox and COMMIT, at an exception ROLLBACK.

        Raises DatabaseUnavailableError if no connection is to be had. An error *during* COMMIT is passed on as it is:
        the outcome is then unknown and must be looked up by key.
        """
        with step("transaction", attributes=self._span_attributes), ExitStack() as unless_committed:
            async with transaction(self.engine) as connection:
                tx = Transaction(connection, self.producer, self._outbox)
                unless_committed.callback(tx.failed)
                yield tx
                rows = await tx.finish(self._positions)
                failpoint("transaction.before_commit")
            unless_committed.pop_all()
        failpoint("transaction.after_commit")
        self._hand_over(rows)
        tx.committed()

    async def announce(
        self, statement: Statement, values: Mapping[str, Any], message: Message, cause: Received[Any]
    ) -> Record | None:
        """Send one statement that is a transaction of its own, and return its row; it writes one message if it changes
        something.

        The statement has :data:`ADD_MESSAGES` in it, and returns as ``announced_at`` when it wrote the message, or
        NULL. To BEGIN, write the outbox and COMMIT would be three round trips more. Raises what :meth:`begin` and
        :meth:`Transaction.publish` raise. After an error the outcome is unknown, as after one during COMMIT.
        """
        outgoing = _outgoing(self.producer, message, None, cause, None, None)
        with step("transaction", attributes=self._span_attributes):
            async with single_statements(self.engine) as connection:
                failpoint("transaction.before_commit")
                row = await statement.fetch_one(connection, {**values, **message_values([outgoing])})
        failpoint("transaction.after_commit")
        if row is not None and row["announced_at"] is not None:
            self._hand_over([stored(outgoing, row["announced_at"])])
        return row

    def _hand_over(self, rows: Sequence[Unpublished]) -> None:
        """Leave what was committed to the relay of this process."""
        if rows:
            self.fresh.extend(rows)
            self.doorbell.set()
