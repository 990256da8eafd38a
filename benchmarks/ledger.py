"""Reservations per second on one hot account, against a row lock per request and against what the database can do.

    python -m benchmarks.ledger [--reservations 20000]

All three write the same rows through the same constraints and triggers, to a PostgreSQL that waits for its disk:

- the ledger: billing's handler in batches of 100, as its consumers call it and in processes that collect garbage as
  the service does, in one process, in two and in four at once;
- the peer: what most services do, one transaction per request that locks the account's row (20 connections);
- the limit: pgbench, which makes the rows of a batch inside the database and decides nothing.

The ledger and the limit take turns, and of each the median counts: the speed of a machine changes with time.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

import asyncpg
import msgspec
import uvloop

from billing import handlers
from contracts.billing import CreditsReserved
from contracts.gateway import GenerationRequested
from contracts.values import LedgerLine
from local_platform.servers import PostgresServer
from local_platform.servers.binaries import postgres_programs
from messaging.ids import new_id
from messaging.received import Received
from messaging.transaction import Transactions
from service_runtime.database import engine_for
from service_runtime.lifecycle import freeze_loaded_objects
from tests.billing.ledger_harness import LedgerHarness, order, received
from tests.support.databases import Database, DatabaseFactory
from tests.support.folders import removed_at_exit

BATCH = 100
ROUNDS = 3
REPLICAS = (1, 2, 4)
PEER_CONNECTIONS = 20
PGBENCH_SECONDS = 5
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
INSERT INTO billing.outbox_messages
    (message_id, subject, stream, payload, correlation_id, causation_id, traceparent)
SELECT uuidv7(), 'billing.event.credits-reserved.v1', 'BILLING', '{payload}'::bytea, generation, generation,
       '{traceparent}' FROM ids;
END;
"""


@dataclass(frozen=True)
class Account:
    """The hot account and the one grant that it spends."""

    user: UUID
    grant: UUID


async def ledger(database: Database, account: Account, reservations: int, replicas: int) -> float:
    """Reservations per second through the handler, in ``replicas`` processes at once."""
    context = get_context("spawn")
    barrier = context.Barrier(replicas)
    shares = [(database.dsn("billing"), account, reservations // replicas // BATCH)] * replicas
    with ProcessPoolExecutor(replicas, context, initializer=_meet_at, initargs=(barrier,)) as pool:
        loop = asyncio.get_running_loop()
        times = await asyncio.gather(*(loop.run_in_executor(pool, _consume, *share) for share in shares))
    return reservations / (max(ended for _, ended in times) - min(began for began, _ in times))


_barrier: Barrier | None = None


def _meet_at(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _consume(dsn: str, account: Account, batches: int) -> tuple[float, float]:
    """Entry point of a process: when it began and ended to handle so many batches."""
    return uvloop.run(_handle(dsn, account, batches))


async def _handle(dsn: str, account: Account, batches: int) -> tuple[float, float]:
    engine = engine_for(dsn, application_name="benchmark-ledger")
    transactions = Transactions(engine, producer="billing")
    # The first of them prepares the statements.
    messages = [[_message(account) for _ in range(BATCH)] for _ in range(batches + 1)]
    await _reserve(transactions, messages.pop())
    freeze_loaded_objects()
    assert _barrier is not None
    await asyncio.to_thread(_barrier.wait)
    began = time.time()
    while messages:
        await _reserve(transactions, messages.pop())
    ended = time.time()
    await engine.dispose()
    return began, ended


async def _reserve(transactions: Transactions, batch: list[Received[GenerationRequested]]) -> None:
    async with transactions.begin() as tx:
        await handlers.reserve(tx, batch)


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
    script = LIMIT_SCRIPT.format(
        user=account.user, grant=account.grant, batch=BATCH, payload=payload, traceparent=NOT_RECORDED
    )
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
    """What the ledger announces of a reservation."""
    requested = order(account.user, 1).order
    line = LedgerLine(
        line_number=1_000_000,
        transfer_id=new_id(),
        user_id=account.user,
        reason="reserve",
        available_delta_credits=-1,
        reserved_delta_credits=1,
        available_after_credits=9_000_000,
        reserved_after_credits=1_000_000,
        generation_id=requested.generation_id,
        occurred_at=requested.requested_at,
    )
    return msgspec.json.encode(CreditsReserved(reservation_id=new_id(), order=requested, line=line))


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
            rounds = [
                (
                    *[await ledger(database, account, reservations, replicas) for replicas in REPLICAS],
                    await limit(database, account),
                )
                for _ in range(ROUNDS)
            ]
            each = await peer(database, account, max(reservations // 10, PEER_CONNECTIONS))
            await database.dispose()
        finally:
            await server.stop("immediate")
    *rates, most = (median(rates) for rates in zip(*rounds, strict=True))
    best = max(rates)
    for replicas, rate in zip(REPLICAS, rates, strict=True):
        print(f"{f'the ledger, replicas: {replicas}':<42}{rate:>9,.0f} reservations/s")
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
    parser.add_argument("--reservations", type=int, default=20_000, help="in each round (default: 20,000)")
    arguments = parser.parse_args()
    uvloop.run(run(arguments.reservations))


if __name__ == "__main__":
    main()
