"""Drives the ledger's handlers as a consumer does: a batch in, one transaction, messages out."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypedDict, TypeVar, Unpack
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from billing import handlers
from billing.loops.sealer import Sealer
from contracts.billing import ClawBackCredits, GrantCredits
from contracts.gateway import GenerationRequested, VariantsRequested
from contracts.generation import GenerationCancelled, GenerationCompleted, GenerationFailed
from contracts.ledger_chain import Head
from contracts.message import Message
from contracts.values import GenerationOrder, LedgerLine, MediaProperties
from messaging.ids import new_id
from messaging.received import Received
from messaging.transaction import Transaction, Transactions
from tests.support import eventually

M = TypeVar("M", bound=Message)
GrantReason = Literal["purchase", "bonus", "signup", "goodwill", "dispute_won", "refund_failed"]
Handler = Callable[[Any, Sequence[Received[Any]]], Awaitable[None]]


class GrantOptions(TypedDict, total=False):
    """Fields of a grant that have a default in tests."""

    grant_id: UUID
    actor: str
    payment_id: UUID
    note: str
    expires_at: datetime | None


MEDIA = MediaProperties(content_type="video/mp4", width_pixels=832, height_pixels=480, codec="h264")


class RecordingTransaction:
    """A transaction that remembers what a handler published and deferred."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self.connection = transaction.connection
        self.published: list[Message] = []
        self.deferred: list[Message] = []

    def publish(self, message: Message, **options: Any) -> UUID:
        self.published.append(message)
        return self._transaction.publish(message, **options)

    def defer(self, received: Received[Any], reason: str) -> None:
        assert reason
        self.deferred.append(received.payload)

    def after_commit(self, callback: Callable[[], None]) -> None:
        self._transaction.after_commit(callback)


class LedgerHarness:
    """Drives billing's handlers on one database, through its runtime role."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.transactions = Transactions(engine, producer="billing")
        self.lines: dict[UUID, list[LedgerLine]] = {}

    async def handle(self, handler: Handler, *messages: Message) -> list[Message]:
        """Run a batch of new messages in one transaction; returns what was published."""
        recording = await self.record(handler, *messages)
        assert not recording.deferred
        return recording.published

    async def record(self, handler: Handler, *messages: Message) -> RecordingTransaction:
        """Like ``handle``, for batches in which messages may be deferred."""
        async with self.transactions.begin() as transaction:
            recording = RecordingTransaction(transaction)
            await handler(recording, [received(message) for message in messages])
        for message in recording.published:
            for line in lines_of(message):
                self.lines.setdefault(line.user_id, []).append(line)
        return recording

    async def grant(
        self, user_id: UUID, amount: int, reason: GrantReason = "goodwill", **options: Unpack[GrantOptions]
    ) -> GrantCredits:
        """Grant credits; returns the command, to be repeated."""
        command = grant(user_id, amount, reason, **options)
        is_operators = reason in ("signup", "goodwill")
        await self.handle(handlers.grant_by_operator if is_operators else handlers.apply_commands, command)
        return command

    async def reserve(self, user_id: UUID, price: int) -> UUID:
        """Reserve credits for a new generation; returns its id."""
        request = order(user_id, price)
        await self.handle(handlers.reserve, request)
        return request.order.generation_id

    async def seal(self) -> Head:
        """Seal everything. Each call seals what the call before saw: two are enough once no transaction runs."""
        sealer = Sealer(self.engine)
        newest: int = await self.scalar("SELECT max(posting_id) FROM billing.balance_ledger")

        async def sealed() -> Head | None:
            head = await sealer.seal()
            return head if head.through_posting_id >= newest else None

        return await eventually(sealed)

    async def balance(self, user_id: UUID) -> tuple[int, int, int]:
        """Available, reserved and receivable credits."""
        query = text(
            "SELECT available_credits, reserved_credits, receivable_credits FROM billing.users WHERE user_id = :user_id"
        )
        async with self.engine.connect() as connection:
            row = (await connection.execute(query, {"user_id": user_id})).one_or_none()
        return (0, 0, 0) if row is None else (row[0], row[1], row[2])

    async def scalar(self, query: str, **parameters: Any) -> Any:
        """One value from the database."""
        async with self.engine.connect() as connection:
            return (await connection.execute(text(query), parameters)).scalar_one()


def received(payload: M) -> Received[M]:
    """A message as a consumer hands it over, with an id never seen before."""
    return Received(
        message_id=new_id(),
        subject=payload.subject,
        payload=payload,
        correlation_id=uuid4(),
        causation_id=None,
        occurred_at=datetime.now(UTC),
        traceparent=None,
        deliveries=1,
    )


def lines_of(message: Message) -> tuple[LedgerLine, ...]:
    """The statement lines that an event carries."""
    line = getattr(message, "line", None)
    return (line,) if line is not None else getattr(message, "lines", ())


def order(user_id: UUID, price: int, generation_id: UUID | None = None) -> GenerationRequested:
    """A request for a clip."""
    now = datetime.now(UTC)
    return GenerationRequested(
        order=GenerationOrder(
            generation_id=generation_id or new_id(),
            user_id=user_id,
            model_id="wan-2.2-t2v",
            kind="video",
            parameters={"prompt": "a lighthouse in a storm"},
            price_credits=price,
            lane="standard",
            requested_at=now,
            expires_at=now + timedelta(hours=2),
        )
    )


def variants(user_id: UUID, price: int, *generation_ids: UUID) -> VariantsRequested:
    """A request for several clips in one order."""
    first = order(user_id, price).order
    return VariantsRequested(
        user_id=user_id,
        orders=tuple(msgspec.structs.replace(first, generation_id=generation_id) for generation_id in generation_ids),
    )


def withdrawn(request: GenerationRequested, withdrawal: Literal["cancelled", "expired"]) -> GenerationRequested:
    """The withdrawal of a request."""
    return msgspec.structs.replace(request, withdrawal=withdrawal)


def grant(
    user_id: UUID, amount: int, reason: GrantReason = "goodwill", **options: Unpack[GrantOptions]
) -> GrantCredits:
    """A command to credit a user."""
    complete: GrantOptions = {"grant_id": new_id(), "actor": "tests", **options}
    return GrantCredits(user_id=user_id, amount_credits=amount, reason=reason, **complete)


def clawback(
    user_id: UUID,
    amount: int,
    payment_id: UUID,
    reason: Literal["refund", "dispute"] = "refund",
    clawback_id: UUID | None = None,
) -> ClawBackCredits:
    """A command to take back credits of a payment."""
    return ClawBackCredits(
        clawback_id=clawback_id or new_id(),
        user_id=user_id,
        amount_credits=amount,
        payment_id=payment_id,
        reason=reason,
    )


def completed(user_id: UUID, generation_id: UUID, capture: int, *, late: bool = False) -> GenerationCompleted:
    """A verified object exists."""
    return GenerationCompleted(
        generation_id=generation_id,
        user_id=user_id,
        version=5,
        attempt_number=1,
        asset_id=new_id(),
        capture_credits=capture,
        late=late,
        media=MEDIA,
        completed_at=datetime.now(UTC),
    )


def failed(
    user_id: UUID, generation_id: UUID, code: Literal["execution_failed", "deadline_exceeded"] = "execution_failed"
) -> GenerationFailed:
    """No file will come."""
    return GenerationFailed(
        generation_id=generation_id, user_id=user_id, version=6, code=code, detail="", failed_at=datetime.now(UTC)
    )


def cancelled(user_id: UUID, generation_id: UUID) -> GenerationCancelled:
    """The user's cancel won."""
    return GenerationCancelled(generation_id=generation_id, user_id=user_id, version=7, cancelled_at=datetime.now(UTC))
