"""The journal: every message, once, unchanged."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from auditor import handlers
from auditor.checking import evaluate
from auditor.consumers import SUBSCRIPTIONS
from auditor.invariants import INVARIANTS
from auditor.repository import journal
from auditor.repository.journal import PartitionChanges
from contracts.billing import CreditsReserved, GrantCredits
from contracts.gateway import GenerationRequested
from contracts.generation import GenerationQueued
from contracts.message import SERVICES, Message
from messaging.consumers import Subscription
from messaging.received import Received
from messaging.runtime import Messaging
from messaging.transaction import Transactions
from service_runtime.settings import ServiceSettings
from tests.support.databases import Database
from tests.support.waiting import eventually

M = TypeVar("M", bound=Message)
MakeDatabase = Callable[..., Awaitable[Database]]
BrokerSettingsOf = Callable[[str], ServiceSettings]


def received(
    payload: M,
    *,
    message_id: UUID,
    correlation_id: UUID | None = None,
    cause: UUID | None = None,
    producer: str | None = "generation",
) -> Received[M]:
    return Received(
        message_id=message_id,
        subject=payload.subject,
        payload=payload,
        correlation_id=correlation_id or uuid4(),
        causation_id=cause,
        occurred_at=datetime(2026, 11, 1, tzinfo=UTC),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        deliveries=1,
        producer=producer,
    )


def queued(lane: str = "free") -> GenerationQueued:
    return GenerationQueued(generation_id=uuid4(), user_id=uuid4(), version=1, lane=lane)


def id_of(moment: datetime) -> UUID:
    """A UUIDv7 made at ``moment``."""
    return UUID(f"{int(moment.timestamp() * 1000):012x}7{uuid4().hex[13:16]}8{uuid4().hex[17:]}")


async def record(transactions: Transactions, *messages: Received[Message]) -> None:
    async with transactions.begin() as tx:
        await handlers.record(tx, messages)


@pytest.fixture
async def database(make_database: MakeDatabase) -> Database:
    return await make_database("auditor")


@pytest.fixture
def transactions(database: Database) -> Transactions:
    return Transactions(database.engine("auditor"), producer="auditor")


async def test_a_repeated_message_is_in_the_journal_once_and_as_it_first_came(
    database: Database, transactions: Transactions
) -> None:
    message = received(queued(), message_id=id_of(datetime.now(UTC)), cause=uuid4())
    await record(transactions, message, received(queued(), message_id=id_of(datetime.now(UTC))))
    await record(transactions, message)
    async with database.superuser_engine().connect() as connection:
        rows = (await connection.execute(text("SELECT * FROM auditor.journal"))).mappings().all()
    assert len(rows) == 2
    row = next(row for row in rows if row["message_id"] == message.message_id)
    assert row["subject"] == "generation.event.generation-queued.v1"
    assert (row["stream"], row["producer"]) == ("GENERATION", "generation")
    assert (row["correlation_id"], row["causation_id"]) == (message.correlation_id, message.causation_id)
    assert row["user_id"] == message.payload.user_id
    assert row["payload"]["lane"] == "free"
    assert row["occurred_at"] == message.occurred_at


@pytest.mark.parametrize(("producer", "found"), [("gateway", "from gateway"), (None, "from unnamed")])
async def test_a_message_that_its_owner_did_not_publish_is_a_violation(
    make_database: MakeDatabase, producer: str | None, found: str
) -> None:
    database = await make_database(*SERVICES)
    forged = received(queued(), message_id=id_of(datetime.now(UTC)), producer=producer)
    sound = received(queued(), message_id=id_of(datetime.now(UTC)))
    await record(Transactions(database.engine("auditor"), producer="auditor"), forged, sound)
    (invariant,) = [one for one in INVARIANTS if one.code == "messages_come_from_their_owner"]
    async with database.engine("auditor").connect() as connection:
        (violation,) = (await evaluate(connection, invariant, 60.0)).violations
    assert violation.subject == str(forged.message_id)
    assert violation.expected == "generation.event.generation-queued.v1 from generation"
    assert found in violation.found


async def test_a_huge_payload_is_kept_by_size_and_beginning(database: Database, transactions: Transactions) -> None:
    await record(transactions, received(queued(lane="x" * 70_000), message_id=id_of(datetime.now(UTC))))
    async with database.superuser_engine().connect() as connection:
        payload = await connection.scalar(text("SELECT payload FROM auditor.journal"))
    assert payload["shortened"] is True
    assert payload["size_bytes"] > 70_000
    assert len(payload["beginning"]) <= 1024


async def test_what_is_recorded_cannot_be_changed_by_the_service(
    database: Database, transactions: Transactions
) -> None:
    await record(transactions, received(queued(), message_id=id_of(datetime.now(UTC))))
    for statement in ("UPDATE auditor.journal SET subject = 'x'", "DELETE FROM auditor.journal"):
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with transactions.engine.begin() as connection:
                await connection.execute(text(statement))


async def test_a_message_is_in_the_partition_of_its_day(database: Database, transactions: Transactions) -> None:
    now = datetime.now(UTC)
    await record(
        transactions,
        received(queued(), message_id=id_of(now)),
        received(queued(), message_id=id_of(now + timedelta(days=1))),
        received(queued(), message_id=id_of(now + timedelta(days=40))),
        received(queued(), message_id=uuid4()),
    )
    async with database.superuser_engine().connect() as connection:
        names = await connection.scalars(text("SELECT tableoid::regclass::text FROM auditor.journal ORDER BY 1"))
    assert sorted(names) == [
        f"auditor.journal_{now:%Y%m%d}",
        f"auditor.journal_{now + timedelta(days=1):%Y%m%d}",
        "auditor.journal_default",
        "auditor.journal_default",
    ]


async def test_days_are_made_ahead_and_old_ones_dropped(database: Database, transactions: Transactions) -> None:
    now = datetime.now(UTC)
    old = now - timedelta(days=100)
    superuser = database.superuser_engine()
    async with superuser.begin() as connection:
        bounds = (
            f"FROM (auditor.first_id_of('{old:%Y-%m-%d}')) TO (auditor.first_id_of('{old + timedelta(1):%Y-%m-%d}'))"
        )
        await connection.execute(
            text(f"CREATE TABLE auditor.journal_{old:%Y%m%d} PARTITION OF auditor.journal FOR VALUES {bounds}")
        )
        await connection.execute(text(f"ALTER TABLE auditor.journal_{old:%Y%m%d} OWNER TO auditor_migrator"))
        # Tomorrow's partition is missing, and a message of tomorrow came already.
        await connection.execute(text(f"DROP TABLE auditor.journal_{now + timedelta(1):%Y%m%d}"))
    early = received(queued(), message_id=id_of(now + timedelta(days=1)))
    await record(transactions, early, received(queued(), message_id=id_of(old)))
    async with transactions.engine.begin() as connection:
        assert await journal.maintain_partitions(connection, 90) == PartitionChanges(1, 1)
        assert await journal.maintain_partitions(connection, 90) == PartitionChanges(0, 0)
    async with superuser.connect() as connection:
        rows = (
            await connection.execute(text("SELECT message_id, tableoid::regclass::text FROM auditor.journal"))
        ).all()
    assert rows == [(early.message_id, f"auditor.journal_{now + timedelta(1):%Y%m%d}")]


async def test_a_journal_that_would_forget_before_the_streams_do_is_refused(transactions: Transactions) -> None:
    with pytest.raises(Exception, match="8 days or more"):
        async with transactions.engine.begin() as connection:
            await journal.maintain_partitions(connection, 7)


def test_every_message_of_the_contracts_is_recorded() -> None:
    subjects = {subscription.message_type.subject for subscription in SUBSCRIPTIONS}
    assert {GenerationRequested.subject, CreditsReserved.subject, GrantCredits.subject} <= subjects
    assert all(isinstance(one, Subscription) and not one.inbox for one in SUBSCRIPTIONS)


async def test_messages_published_by_a_service_arrive_in_the_journal_with_their_cause(
    make_database: MakeDatabase, broker_settings: BrokerSettingsOf
) -> None:
    database = await make_database("auditor", "generation")
    producer = Messaging(
        service="generation", engine=database.engine("generation"), settings=broker_settings("generation")
    )
    auditor = Messaging(
        service="auditor",
        engine=database.engine("auditor"),
        settings=broker_settings("auditor"),
        subscriptions=SUBSCRIPTIONS,
    )
    tasks = [asyncio.create_task(component.run()) for component in (*producer.components(), *auditor.components())]
    try:
        generation_id = uuid4()
        async with producer.transactions.begin() as tx:
            first = tx.publish(queued(), correlation_id=generation_id)
        cause = received(queued(), message_id=first, correlation_id=generation_id)
        async with producer.transactions.begin() as tx:
            for _ in range(20):
                tx.publish(queued(), cause=cause)
        reader = database.superuser_engine()

        async def recorded() -> bool:
            async with reader.connect() as connection:
                rows = (
                    await connection.execute(text("SELECT correlation_id, causation_id FROM auditor.journal"))
                ).all()
            return sorted(rows, key=str) == sorted([(generation_id, None), *[(generation_id, first)] * 20], key=str)

        await eventually(recorded, timeout=20, what="21 messages in the journal")
        async with reader.connect() as connection:
            checkpoint = "SELECT max(sequence) FROM auditor.relay_positions WHERE holder <> 'relay'"
            assert (await connection.execute(text(checkpoint))).scalar_one() >= 21
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
