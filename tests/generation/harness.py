"""A harness for the handlers, loops and SQL of generation on a real database, without a running process."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncEngine

from catalogue import Catalogue, load_catalogue
from contracts.billing import CreditsReserved
from contracts.message import Message
from contracts.storage import AssetStored
from contracts.values import GenerationOrder, LedgerLine, MediaProperties
from generation.domain.order import Order
from generation.domain.policy import Policy
from generation.handlers import Handlers
from generation.repository.attempts import mark_sending
from generation.repository.fair_queue import ClaimedOrder, claim_orders
from generation.repository.orders import lock_orders, save_orders
from generation.track_record import TrackRecord
from generation.wake_ups import WakeUps
from messaging.ids import new_id
from messaging.received import Received
from messaging.transaction import Transaction, Transactions
from tests.generation.orders import CAPS, configure, limits
from tests.support.databases import Database

M = TypeVar("M", bound=Message)

ENDPOINTS = ("image", "video")


class GenerationHarness:
    """Drives the handlers on one database, and shows what they did."""

    def __init__(self, database: Database, policy: Policy | None = None) -> None:
        self.database = database
        self.policy = policy or Policy()
        self.engine: AsyncEngine = database.engine("generation")
        self.transactions = Transactions(self.engine, producer="generation")
        self.wake_ups = WakeUps()
        self.track_record = TrackRecord()
        self.catalogue = _catalogue()
        self.handlers = Handlers(self.catalogue, self.policy, CAPS, self.wake_ups, self.track_record)

    async def configure(self, **changes: Any) -> None:
        """Endpoints of the catalogue, with generous limits unless ``changes`` say otherwise."""
        async with self.engine.begin() as connection:
            await configure(connection, *(limits(endpoint, **changes) for endpoint in ENDPOINTS))

    async def enqueue(self, *orders: GenerationOrder) -> None:
        """Funded orders arrive."""
        async with self.transactions.begin() as tx:
            await self.handlers.enqueue(tx, [received(reserved(order)) for order in orders])

    async def deliver(
        self, handler: Callable[[Transaction, Sequence[Received[M]]], Awaitable[None]], *messages: M
    ) -> Transaction:
        """Call one handler with a batch, in a transaction that commits; returns the transaction."""
        async with self.transactions.begin() as tx:
            await handler(tx, [received(message) for message in messages])
        return tx

    async def claim(self, batch: int = 10, endpoint: str = "video", *, sent: bool = True) -> list[ClaimedOrder]:
        """Claim orders from the queue as a dispatcher does, and mark them as being sent."""
        async with self.transactions.begin() as tx:
            ids = [new_id() for _ in range(batch)]
            claim = await claim_orders(tx.connection, endpoint, ids, send_within_seconds=30.0, probe_seconds=30.0)
        if sent:
            assert await self.mark_sending(*claim.orders) == {order.attempt_id for order in claim.orders}
        return claim.orders

    async def mark_sending(self, *orders: ClaimedOrder) -> set[UUID]:
        """Mark attempts as being sent, as a dispatcher does; returns those that may be sent."""
        async with self.engine.begin() as connection:
            attempts = [(order.attempt_id, order.fence_token) for order in orders]
            return await mark_sending(connection, attempts, lease_seconds=30.0)

    async def change(self, generation_id: UUID, change: Callable[[Order, datetime], None]) -> Order:
        """Apply ``change(order, now)`` to one order under its lock, and announce nothing."""
        async with self.transactions.begin() as tx:
            locked = await lock_orders(tx.connection, [generation_id])
            order = locked.orders[generation_id]
            change(order, locked.now)
            order.events.clear()
            await save_orders(tx, locked)
        return order

    async def row(self, generation_id: UUID) -> Row[*tuple[Any, ...]]:
        """The order's row."""
        [row] = await self.query(
            "SELECT * FROM generation.video_generations WHERE generation_id = :id", id=generation_id
        )
        return row

    async def status(self, generation_id: UUID) -> str:
        """The order's state."""
        return str((await self.row(generation_id)).status)

    async def attempts(self, generation_id: UUID) -> Sequence[Row[*tuple[Any, ...]]]:
        """The order's attempts, in order."""
        return await self.query(
            "SELECT * FROM generation.attempts WHERE generation_id = :id ORDER BY attempt_number", id=generation_id
        )

    async def announced(self, generation_id: UUID) -> list[str]:
        """The subjects published about an order, without owner and version, in order."""
        rows = await self.query(
            "SELECT subject FROM generation.outbox_messages WHERE correlation_id = :id ORDER BY message_id",
            id=generation_id,
        )
        return [row.subject.split(".")[2] for row in rows]

    async def counters(self) -> tuple[int, int]:
        """Ready orders and live attempts, as the users' queues count them."""
        [row] = await self.query(
            "SELECT coalesce(sum(ready_count), 0), coalesce(sum(active_count), 0) FROM generation.user_queues"
        )
        return int(row[0]), int(row[1])

    async def query(self, statement: str, **parameters: Any) -> Sequence[Row[*tuple[Any, ...]]]:
        """Rows of any SELECT."""
        async with self.engine.connect() as connection:
            return (await connection.execute(text(statement), parameters)).all()

    async def execute(self, statement: str, **parameters: Any) -> None:
        """Change the database directly: let time pass, for instance."""
        async with self.engine.begin() as connection:
            await connection.execute(text(statement), parameters)


@cache
def _catalogue() -> Catalogue:
    return load_catalogue()


def order(model_id: str = "wan-2.2-t2v", **changes: Any) -> GenerationOrder:
    """A valid order for the catalogue's model."""
    model = _catalogue().model(model_id)
    parameters = changes.pop("parameters", {"prompt": "a lighthouse"})
    values: dict[str, Any] = {
        "generation_id": new_id(),
        "user_id": uuid4(),
        "model_id": model_id,
        "kind": model.kind,
        "parameters": model.complete(parameters),
        "price_credits": 30,
        "lane": "standard",
        "requested_at": datetime.now(UTC),
        "expires_at": datetime.now(UTC) + timedelta(hours=1),
    }
    return GenerationOrder(**(values | changes))


def reserved(order: GenerationOrder) -> CreditsReserved:
    """Billing's message that an order is funded."""
    line = LedgerLine(
        line_number=1,
        transfer_id=new_id(),
        user_id=order.user_id,
        reason="reserve",
        available_delta_credits=-order.price_credits,
        reserved_delta_credits=order.price_credits,
        available_after_credits=0,
        reserved_after_credits=order.price_credits,
        occurred_at=datetime.now(UTC),
    )
    return CreditsReserved(reservation_id=new_id(), order=order, line=line)


def received(message: M) -> Received[M]:
    """A message as the broker would deliver it."""
    order = message.order if isinstance(message, CreditsReserved) else message
    correlation_id: UUID = attrgetter("generation_id")(order)
    return Received(new_id(), message.subject, message, correlation_id, None, datetime.now(UTC), None, 1)


def media() -> MediaProperties:
    """What a good clip measures."""
    return MediaProperties(content_type="video/mp4", width_pixels=832, height_pixels=480, codec="h264")


def stored(claimed: ClaimedOrder) -> AssetStored:
    """Storage found the claimed attempt's file to be good."""
    return AssetStored(
        asset_id=uuid4(),
        generation_id=claimed.generation_id,
        user_id=claimed.user_id,
        attempt_id=claimed.attempt_id,
        attempt_number=claimed.attempt_number,
        object_key="k",
        poster_object_key="p",
        size_bytes=10,
        sha256="ab",
        media=media(),
        stored_at=order().requested_at,
    )
