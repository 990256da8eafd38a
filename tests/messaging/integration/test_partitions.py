"""Days come and go; what is still needed stays."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from sqlalchemy import text

from messaging.ids import derived_id, new_id
from messaging.inbox import Inbox, message_day
from messaging.partitions import PartitionKeeper
from messaging.schema import DAYS_AHEAD, INBOX_RETENTION_DAYS, OUTBOX_RETENTION_DAYS
from tests.messaging.integration.effects import execute, scalar
from tests.support.databases import Database


def id_of(day: date) -> UUID:
    """A UUIDv7 whose time is noon of ``day``."""
    milliseconds = int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp() * 1000)
    return UUID(int=(milliseconds << 80) | (new_id().int & ((1 << 80) - 1)))


async def today(database: Database) -> date:
    """The date by the database's clock in UTC."""
    found: date = await scalar(database.superuser_engine(), "SELECT (now() AT TIME ZONE 'UTC')::date")
    return found


async def partitions(database: Database, table: str) -> set[str]:
    """The day partitions of ``table`` in billing's schema, by their day."""
    async with database.superuser_engine().connect() as connection:
        rows = await connection.execute(
            text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = CAST(:parent AS regclass)"),
            {"parent": f"billing.{table}"},
        )
        return {name.rpartition("_")[2] for (name,) in rows} - {"default"}


async def add_partition(database: Database, table: str, day: date) -> None:
    """A partition as it was made on that day."""
    await execute(
        database.superuser_engine(),
        f"CREATE TABLE billing.{table}_{day:%Y%m%d} PARTITION OF billing.{table}"
        f" FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')",
    )
    await execute(database.superuser_engine(), f"ALTER TABLE billing.{table}_{day:%Y%m%d} OWNER TO billing_migrator")


def days(start: date, count: int) -> set[str]:
    """``count`` days from ``start`` as in partition names."""
    return {f"{start + timedelta(days=number):%Y%m%d}" for number in range(count)}


async def add_outbox(database: Database, created_at: datetime, published: bool) -> None:
    """One outbox row of that time."""
    await execute(
        database.superuser_engine(),
        "INSERT INTO billing.outbox_messages"
        " (message_id, subject, stream, payload, correlation_id, created_at, published_at)"
        " VALUES (:id, 's', 'S', '', :id, :created_at, CASE WHEN :published THEN now() END)",
        id=new_id(),
        created_at=created_at,
        published=published,
    )


async def test_the_coming_days_are_made_and_the_runtime_role_may_have_it_done(database: Database) -> None:
    first = await today(database)
    assert await partitions(database, "outbox_messages") == days(first, DAYS_AHEAD + 1)
    tomorrow = first + timedelta(days=1)
    for table in ("outbox_messages", "inbox_messages"):
        await execute(database.superuser_engine(), f"DROP TABLE billing.{table}_{tomorrow:%Y%m%d}")

    keeper = PartitionKeeper("billing", database.engine("billing"))

    assert await keeper.maintain() == (2, 0)
    assert await keeper.maintain() == (0, 0)
    assert await partitions(database, "inbox_messages") == days(first, DAYS_AHEAD + 1)


async def test_an_expired_outbox_partition_goes_unless_something_in_it_is_unpublished(database: Database) -> None:
    first = await today(database)
    done, waiting = (first - timedelta(days=OUTBOX_RETENTION_DAYS + back) for back in (1, 2))
    for day, published in ((done, True), (waiting, False)):
        await add_partition(database, "outbox_messages", day)
        await add_outbox(database, datetime(day.year, day.month, day.day, 12, tzinfo=UTC), published)
    await add_partition(database, "outbox_messages", first - timedelta(days=OUTBOX_RETENTION_DAYS))

    assert await PartitionKeeper("billing", database.engine("billing")).maintain() == (0, 1)

    kept = await partitions(database, "outbox_messages")
    assert f"{done:%Y%m%d}" not in kept
    assert {f"{waiting:%Y%m%d}", f"{first - timedelta(days=OUTBOX_RETENTION_DAYS):%Y%m%d}"} <= kept
    assert await scalar(database.superuser_engine(), "SELECT count(*) FROM billing.outbox_messages") == 1


async def test_an_old_inbox_partition_stays_while_something_in_it_was_received_lately(database: Database) -> None:
    first = await today(database)
    old, late = (first - timedelta(days=INBOX_RETENTION_DAYS + back) for back in (1, 2))
    for day in (old, late):
        await add_partition(database, "inbox_messages", day)
    engine = database.superuser_engine()
    insert = "INSERT INTO billing.inbox_messages VALUES ('c', :id, :day, now() - CAST(:age AS interval))"
    await execute(engine, insert, id=id_of(old), day=old, age=timedelta(days=INBOX_RETENTION_DAYS + 1))
    await execute(engine, insert, id=id_of(late), day=late, age=timedelta(days=2))

    assert await PartitionKeeper("billing", database.engine("billing")).maintain() == (0, 1)

    assert f"{old:%Y%m%d}" not in await partitions(database, "inbox_messages")
    assert f"{late:%Y%m%d}" in await partitions(database, "inbox_messages")


async def test_rows_that_came_before_their_partition_move_into_it(database: Database) -> None:
    first = await today(database)
    engine = database.superuser_engine()
    await execute(engine, f"DROP TABLE billing.outbox_messages_{first:%Y%m%d}")
    await add_outbox(database, datetime.now(UTC), published=False)
    assert await scalar(engine, "SELECT count(*) FROM billing.outbox_messages_default") == 1

    await PartitionKeeper("billing", database.engine("billing")).maintain()

    assert await scalar(engine, "SELECT count(*) FROM billing.outbox_messages_default") == 0
    assert await scalar(engine, f"SELECT count(*) FROM billing.outbox_messages_{first:%Y%m%d}") == 1


async def test_the_same_id_is_new_once_whatever_its_day_and_kind(database: Database) -> None:
    first = await today(database)
    ids = [
        new_id(),
        id_of(first - timedelta(days=1)),
        id_of(first - timedelta(days=40)),
        id_of(first + timedelta(days=40)),
        derived_id(new_id(), "no time in it"),
    ]
    inbox = Inbox("billing", "billing-gateway")

    assert await add(database, inbox, [*ids, ids[0]]) == set(ids)
    assert await add(database, inbox, [*reversed(ids)]) == set()
    await PartitionKeeper("billing", database.engine("billing")).maintain()
    assert await add(database, inbox, ids) == set()
    assert await add(database, Inbox("billing", "billing-storage"), ids) == set(ids)


async def add(database: Database, inbox: Inbox, ids: Sequence[UUID]) -> set[UUID]:
    """Receive ``ids`` in a transaction of its own."""
    async with database.engine("billing").begin() as connection:
        return await inbox.add_new(connection, ids)


def test_the_day_of_an_id_is_a_function_of_the_id() -> None:
    assert message_day(id_of(date(2026, 11, 23))) == date(2026, 11, 23)
    assert message_day(derived_id(new_id(), "x")) == date(1970, 1, 1)


async def test_the_runtime_role_cannot_drop_what_it_may_have_maintained(database: Database) -> None:
    engine = database.engine("billing")
    query = "SELECT has_table_privilege('billing', 'billing.inbox_messages', 'TRUNCATE')"
    assert await scalar(engine, query) is False
    owner = "SELECT tableowner FROM pg_tables WHERE schemaname = 'billing' AND tablename = 'outbox_messages'"
    assert await scalar(engine, owner) == "billing_migrator"
    assert await scalar(engine, "SELECT prosecdef FROM pg_proc WHERE proname = 'maintain_message_partitions' LIMIT 1")
