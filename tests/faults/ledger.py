"""A million transfers under a running conservation check.

    python -m tests.faults.ledger [--transfers 1000000] [--workers 20] [--seed 20261123]

Twenty workers drive the ledger's handlers as the service's role, on a real PostgreSQL, over accounts that they share
and one that is hot; messages are repeated, outcomes contested, and now and then a worker's connection is cut, possibly
in the middle of a COMMIT. All the while every invariant is checked on one snapshot after another and the ledger is
sealed. At the end everything is verified. Exit code 0 only without a single violation.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from billing import conservation
from billing.conservation import Violation
from billing.loops.sealer import Sealer
from billing.verification import LedgerReport, verify
from local_platform.servers import PostgresServer
from service_runtime.database import engine_for
from tests.faults.ledger_worker import Share, Tally, work
from tests.support.databases import Database, DatabaseFactory
from tests.support.folders import removed_at_exit

PROCESSES = 4
USERS = 10_000
CUT_EVERY_SECONDS = 1.0
PROGRESS_SECONDS = 15.0
LONGEST_CHECK_MS = 600_000


@dataclass
class Observations:
    """Counted while the workers ran."""

    checks: int = 0
    cuts: int = 0
    violations: list[Violation] = field(default_factory=list)


async def run(transfers: int, workers: int, seed: int) -> int:
    """Run it all and print the outcome; returns the exit code."""
    with removed_at_exit("reelhouse-faults-ledger-") as directory:
        server = PostgresServer(directory)
        await server.start()
        try:
            database = await DatabaseFactory(server).make(("billing",))
            try:
                return await _run(database, transfers, workers, seed)
            finally:
                await database.dispose()
        finally:
            await server.stop("immediate")


async def _run(database: Database, transfers: int, workers: int, seed: int) -> int:
    reader = engine_for(
        database.superuser_dsn,
        application_name="faults-ledger-checker",
        pool_size=3,
        statement_timeout_ms=LONGEST_CHECK_MS,
    )
    await _analyse_often(reader)
    observed, over = Observations(), asyncio.Event()
    sealer = Sealer(database.engine("billing"))
    watchers = asyncio.gather(
        _until(over, 0.0, lambda: _check(reader, observed)),
        _until(over, 0.5, sealer.seal),
        _until(over, CUT_EVERY_SECONDS, lambda: _cut(reader, observed, random.Random(seed))),
        _until(over, PROGRESS_SECONDS, lambda: _print_progress(reader, observed)),
    )
    began = time.perf_counter()
    try:
        tally = await _work(database, transfers, workers, seed)
    finally:
        seconds = time.perf_counter() - began
        over.set()
        await watchers
    for _ in range(2):
        await sealer.seal()
    report = await verify(reader)
    deadlocks = await _scalar(reader, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    stored = await _scalar(reader, "SELECT count(DISTINCT transfer_id) FROM billing.balance_ledger")
    await reader.dispose()
    violations = [*observed.violations, *report.violations]
    _print(stored, workers, seconds, tally, observed, report, deadlocks, violations)
    return 1 if violations or report.findings or deadlocks or stored < transfers else 0


async def _work(database: Database, transfers: int, workers: int, seed: int) -> Tally:
    """Spread the workers over processes, and add up what they did."""
    users = tuple(UUID(int=random.Random(f"{seed}/{number}").getrandbits(128)) for number in range(USERS))
    processes = PROCESSES if workers % PROCESSES == 0 else 1
    loop = asyncio.get_running_loop()
    total = Tally()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        shares = [
            Share(
                dsn=database.dsn("billing"),
                seed=seed,
                process=number,
                workers=workers // processes,
                all_workers=workers,
                transfers=-(-transfers // processes),
                users=users,
            )
            for number in range(processes)
        ]
        for tally in await asyncio.gather(*(loop.run_in_executor(pool, work, share) for share in shares)):
            total.transfers += tally.transfers
            total.batches += tally.batches
            total.retries += tally.retries
    return total


async def _analyse_often(reader: AsyncEngine) -> None:
    """Plans made while the tables were empty stay until statistics come; by default that takes a minute."""
    async with reader.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text("ALTER SYSTEM SET autovacuum_naptime = '1s'"))
        await autocommit.execute(text("SELECT pg_reload_conf()"))


async def _until(over: asyncio.Event, pause: float, step: Callable[[], Awaitable[object]]) -> None:
    while not over.is_set():
        await step()
        try:
            await asyncio.wait_for(over.wait(), pause)
        except TimeoutError:
            continue


async def _check(reader: AsyncEngine, observed: Observations) -> None:
    """Check once, then rest for as long as that took: the checks get half of one processor."""
    began = time.perf_counter()
    violations = await conservation.check(reader)
    resting = asyncio.create_task(asyncio.sleep(time.perf_counter() - began))
    observed.checks += 1
    observed.violations += violations
    for violation in violations:
        print(f"VIOLATION {violation.invariant}: {violation.detail}", flush=True)
    await resting


async def _cut(reader: AsyncEngine, observed: Observations, chance: random.Random) -> None:
    """Cut the connection of one worker, whatever it is doing."""
    async with reader.begin() as connection:
        query = text("SELECT pid FROM pg_stat_activity WHERE application_name = 'faults-ledger-worker' ORDER BY pid")
        workers = list((await connection.execute(query)).scalars())
        if workers:
            await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": chance.choice(workers)})
            observed.cuts += 1


async def _print_progress(reader: AsyncEngine, observed: Observations) -> None:
    """Print how far it has come. A transfer has two postings or more."""
    postings = await _scalar(reader, "SELECT coalesce(max(posting_id), 0) FROM billing.balance_ledger")
    print(f"{postings:,} postings, {observed.checks} checks, {len(observed.violations)} violations ...", flush=True)


async def _scalar(reader: AsyncEngine, query: str) -> int:
    async with reader.connect() as connection:
        return int((await connection.execute(text(query))).scalar_one())


def _print(
    stored: int,
    workers: int,
    seconds: float,
    tally: Tally,
    observed: Observations,
    report: LedgerReport,
    deadlocks: int,
    violations: list[Violation],
) -> None:
    for finding in report.findings:
        print(f"TAMPERED {finding}")
    print(f"transfers          {stored:>12,}  by {workers} workers in {seconds:.1f} s, {tally.batches:,} transactions")
    print(f"transfers/s        {stored / seconds:>12,.0f}")
    print(f"checks             {observed.checks:>12,}  of {len(conservation.INVARIANTS)} invariants each, while it ran")
    print(f"connections cut    {observed.cuts:>12,}  {tally.retries:,} transactions were run again")
    print(f"deadlocks          {deadlocks:>12,}")
    print(f"seals              {report.seals:>12,}  over {report.sealed_postings:,} postings, head {report.head}")
    print(f"violations         {len(violations):>12,}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.ledger", description=__doc__)
    parser.add_argument("--transfers", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--seed", type=int, default=20_261_123)
    arguments = parser.parse_args()
    sys.exit(asyncio.run(run(arguments.transfers, arguments.workers, arguments.seed)))


if __name__ == "__main__":
    main()
