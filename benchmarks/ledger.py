"""Reservations per second on one hot account, against a row lock per request and against what the database can do.

    python -m benchmarks.ledger [--reservations 20000]

All three write the same rows through the same constraints and triggers, to a PostgreSQL that waits for its disk:

- the ledger: billing's handler in batches of 100, as its consumers call it, by one and by four at once;
- the peer: what most services do, one transaction per request that locks the account's row (20 connections);
- the limit: pgbench, which makes the rows of a batch inside the database and decides nothing.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import msgspec

from billing import handlers
from contracts.gateway import GenerationRequested
from local_platform.servers import PostgresServer
from local_platform.servers.binaries import postgres_programs
from messaging.ids import new_id
from messaging.received import Received
from messaging.transaction import Transactions
from tests.billing.ledger_harness import LedgerHarness, order, received
from tests.support.databases import Database, DatabaseFactory
from tests.support.folders import removed_at_exit

BATCH = 100
PEER_CONNECTIONS = 20
PGBENCH_SECONDS = 8
NOT_RECORDED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"

LIMIT_SCRIPT = """
BEGIN;
SELECT line_number AS line FROM billing.users WHERE user_id = '{user}' FOR UPDATE \\gset
WITH ids AS MATERIALIZED (
    SELECT n, uuidv7() AS transfer, uuidv7() AS generation, uuidv7() AS reservation
    FROM generate_series(1, {batch}) AS n
), postings AS (
    INSERT INTO billing.balance_ledger
        (transfer_id, account, amount_credits, reason, user_id, line_number, generation_id, occurred_at)
    SELECT transfer, account, amount, 'reserve', '{user}', :line + n, generation, now()
    FROM ids CROSS JOIN (VALUES ('user:available', -1), ('user:reserved', 1)) AS legs (account, amount)
), held AS (
    INSERT INTO billing.reservations
        (reservation_id, generation_id, user_id, amount_credits, deadline_at, reserved_at)
    SELECT reservation, generation, '{user}', 1, now() + interval '2 hours', now() FROM ids
), drawn AS (
    INSERT INTO billing.reservation_grants SELECT reservation, 0, '{grant}', 1 FROM ids
), kept AS (
    UPDATE billing.grants SET remaining_credits = remaining_credits - {batch} WHERE grant_id = '{grant}'
)
INSERT INTO billing.outbox_messages (message_id, subject, stream, payload, correlation_id)
SELECT uuidv7(), 'billing.event.credits-reserved.v1', 'BILLING', '{payload}'::bytea, generation FROM ids;
END;
"""


@dataclass(frozen=True)
class Account:
    """The hot account and the one grant that it spends."""

    user: UUID
    grant: UUID


async def ledger(database: Database, account: Account, reservations: int, replicas: int) -> float:
    """Reservations per second through the handler, ``replicas`` batches at a time."""
    batches = [[_message(account) for _ in range(BATCH)] for _ in range(reservations // BATCH)]

    async def work(transactions: Transactions) -> None:
        while batches:
            async with transactions.begin() as tx:
                await handlers.reserve(tx, batches.pop())

    engines = [database.engine("billing", pool_size=1) for _ in range(replicas)]
    return await _rate(reservations, [partial(work, Transactions(engine, producer="billing")) for engine in engines])


def _message(account: Account) -> Received[GenerationRequested]:
    """An order as a consumer hands it over: decoded, and of a trace that is not recorded, as most are."""
    return replace(received(order(account.user, 1)), traceparent=NOT_RECORDED)


async def peer(database: Database, account: Account, reservations: int) -> float:
    """Reservations per second with a transaction and a row lock for each."""
    pool = await asyncpg.create_pool(database.dsn("billing"), min_size=PEER_CONNECTIONS, max_size=PEER_CONNECTIONS)
    payload = _payload(account)
    remaining = iter(range(reservations))

    async def work() -> None:
        async with pool.acquire() as connection:
            for _ in remaining:
                async with connection.transaction():
                    await _reserve_one(connection, account, payload)

    rate = await _rate(reservations, [work] * PEER_CONNECTIONS)
    await pool.close()
    return rate


async def _reserve_one(connection: asyncpg.Connection, account: Account, payload: bytes) -> None:
    row = await connection.fetchrow(
        "SELECT available_credits, line_number, clock_timestamp() AS now FROM billing.users WHERE user_id = $1"
        " FOR UPDATE",
        account.user,
    )
    assert row["available_credits"] >= 1
    generation, reservation, transfer = new_id(), new_id(), new_id()
    await connection.execute(
        "INSERT INTO billing.balance_ledger (transfer_id, account, amount_credits, reason, user_id, line_number,"
        " generation_id, occurred_at) VALUES ($1, 'user:available', -1, 'reserve', $2, $3, $4, $5),"
        " ($1, 'user:reserved', 1, 'reserve', $2, $3, $4, $5)",
        *(transfer, account.user, row["line_number"] + 1, generation, row["now"]),
    )
    await connection.execute(
        "INSERT INTO billing.reservations (reservation_id, generation_id, user_id, amount_credits, deadline_at,"
        " reserved_at) VALUES ($1, $2, $3, 1, $4, $4)",
        *(reservation, generation, account.user, row["now"]),
    )
    await connection.execute("INSERT INTO billing.reservation_grants VALUES ($1, 0, $2, 1)", reservation, account.grant)
    await connection.execute(
        "UPDATE billing.grants SET remaining_credits = remaining_credits - 1 WHERE grant_id = $1", account.grant
    )
    await connection.execute(
        "INSERT INTO billing.outbox_messages (message_id, subject, stream, payload, correlation_id)"
        " VALUES ($1, 'billing.event.credits-reserved.v1', 'BILLING', $2, $3)",
        *(new_id(), payload, generation),
    )


async def limit(database: Database, account: Account) -> float:
    """Reservations per second that the database alone can write, in batches of the same size."""
    payload = _payload(account).decode().replace("'", "''").replace(":", "\\072")
    script = LIMIT_SCRIPT.format(user=account.user, grant=account.grant, batch=BATCH, payload=payload)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "reserve.sql"
        file.write_text(script)
        process = await asyncio.create_subprocess_exec(
            str(postgres_programs() / "pgbench"),
            *("--no-vacuum", "--client=2", "--jobs=1", f"--time={PGBENCH_SECONDS}", f"--file={file}"),
            database.superuser_dsn,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    (line,) = [line for line in output.decode().splitlines() if line.startswith("tps")]
    return float(line.split()[2]) * BATCH


def _payload(account: Account) -> bytes:
    return msgspec.json.encode(order(account.user, 1))


async def _rate(count: int, workers: list[Callable[[], Awaitable[None]]]) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(worker() for worker in workers))
    return count / (time.perf_counter() - began)


async def run(reservations: int) -> None:
    """Measure all three in one run and print them with their ratios."""
    with removed_at_exit("reelhouse-bench-ledger-") as directory:
        server = PostgresServer(directory, durable=True)
        await server.start()
        try:
            database = await DatabaseFactory(server).make(("billing",))
            account = await _open(database)
            await ledger(database, account, 2_000, 1)
            await _analyse(database)
            one = await ledger(database, account, reservations, 1)
            four = await ledger(database, account, reservations, 4)
            each = await peer(database, account, max(reservations // 10, PEER_CONNECTIONS))
            most = await limit(database, account)
            await database.dispose()
        finally:
            await server.stop("immediate")
    best = max(one, four)
    print(f"{'the ledger, one consumer':<42}{one:>9,.0f} reservations/s")
    print(f"{'the ledger, four replicas':<42}{four:>9,.0f} reservations/s")
    print(f"{'peer: a row lock per request':<42}{each:>9,.0f} reservations/s   the ledger is {best / each:.1f} x that")
    print(f"{'limit: pgbench writing the same rows':<42}{most:>9,.0f} reservations/s   the ledger is {best / most:.0%}")


async def _open(database: Database) -> Account:
    user = uuid4()
    command = await LedgerHarness(database.engine("billing", pool_size=1)).grant(user, 10_000_000)
    return Account(user, command.grant_id)


async def _analyse(database: Database) -> None:
    connection = await asyncpg.connect(database.superuser_dsn)
    await connection.execute("ANALYZE")
    await connection.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__)
    parser.add_argument("--reservations", type=int, default=20_000)
    arguments = parser.parse_args()
    sys.exit(asyncio.run(run(arguments.reservations)))


if __name__ == "__main__":
    main()
