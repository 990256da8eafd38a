"""What everything costs on a history of some size: pages of 8 KiB, not seconds.

    make bench-scale ORDERS=1000,10000,100000

A real platform makes a few dozen orders; then its services stop, and its rows are multiplied until there are so many
(``benchmarks.multiplied_history``). One user has half of all orders. Measured is what the database touches for a call,
on one connection that has made the call before: the pages of a plan that reads history grow with it.
The table says how much more the last size costs than the first. A figure that grows is no error: it is to be explained.

What the services sent in a minute without orders is sent again to each size. It is to be as little as before.
Violations are planted in what is new, what is old and what was archived, and the auditor's rounds are run until one
names them. Two months of three are archived: what an order weighs on the disk before and after, table by table.

A million orders need some 20 GB with ``--journal-days 8``, and more than half an hour. It says how far it is, and
prints the table of what it has measured even if it is interrupted.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import uvloop
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.checking import check_until_clean
from auditor.portions import SCOPES
from auditor.proving import Prover
from benchmarks.history_calls import (
    BASE_ORDERS,
    CALLS,
    PREPARATIONS,
    TOLERANCE_SECONDS,
    Call,
    Subjects,
    base_is_new,
    check_everything,
)
from benchmarks.idle_minute import send_again
from benchmarks.instant_worker import SIDE_PIXELS, instant_worker
from benchmarks.multiplied_history import DAYS, SAID_SECONDS, multiply
from benchmarks.order_cost import Log, Statement, log_statements
from benchmarks.planted_violations import AFTER_ARCHIVE, BEFORE_ARCHIVE, Detected, Violation, detect
from billing.loops.sealer import Sealer
from billing.loops.tree_grower import TreeGrower
from billing.repository import tree
from contracts.message import SERVICES, Service
from gateway import archiving, queries
from local_platform.console import say, table
from local_platform.description import PlatformDescription
from local_platform.identity import sign_token
from local_platform.supervisor import PlatformOptions, Supervisor
from messaging.transaction import Transactions
from service_runtime.database import engine_for
from tests.support.waiting import eventually

LIGHT_USERS = 10
ARCHIVED_DAYS = 30
HEAVIEST_TABLES = 12
PASS = "auditor: a pass over everything"
IDLE = "all services but the auditor, idle for a minute"
PER_SECOND = 4.0
FLAT = 1.5
NO_TIMEOUT_MS = 3_600_000
_PAGES = text("""
    SELECT blks_hit + blks_read, pg_stat_clear_snapshot() FROM pg_stat_database WHERE datname = current_database()
""")
# As on a platform that runs: every reader has come to the end, and the broker still has what it read.
_READ_TO_THE_END = """
    UPDATE {schema}.relay_positions SET verified_at = now(), recorded_at = now() - interval '2 minutes'
"""
_SIZE = text("SELECT pg_database_size(current_database())")
_WEIGHTS = text("""
    SELECT coalesce(pg_partition_root(c.oid), c.oid)::regclass::text AS name, sum(pg_total_relation_size(c.oid))
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND n.nspname = ANY(:schemas) GROUP BY 1 ORDER BY 2 DESC
""")


@dataclass(frozen=True, slots=True)
class Figure:
    """What one call touched on one size of the history."""

    pages: int
    seconds: float


async def place_orders(platform: PlatformDescription, heavy: UUID, light: Sequence[UUID]) -> None:
    """The base: real orders, made and delivered. The heavy user makes every second one."""
    for user in (heavy, *light):
        command = ["grant", "--user", str(user), "--credits", "100000", "--reason", "goodwill", "--actor", "bench"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "billing.main", *command),
            env=platform.environments["billing"],
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert await process.wait() == 0
    tokens = {user: sign_token(platform.identity, user, "pro") for user in (heavy, *light)}
    async with aiohttp.ClientSession(platform.urls["gateway"], raise_for_status=True) as http:
        for number in range(BASE_ORDERS):
            user = heavy if number % 2 == 0 else light[number // 2 % len(light)]
            parameters = {"prompt": f"picture {number}", "width": SIDE_PIXELS, "height": SIDE_PIXELS}
            headers = {"Authorization": f"Bearer {tokens[user]}", "Idempotency-Key": str(uuid4())}
            order = {"model_id": "flux-schnell", "parameters": parameters}
            async with http.post("/v1/generations", json=order, headers=headers):
                await asyncio.sleep(1 / PER_SECOND)


async def settle(platform: PlatformDescription) -> None:
    """Wait until every order has ended and nothing is violated."""
    engine = engine_for(platform.postgres.dsns["auditor"], application_name="bench", pool_size=2)
    try:

        async def all_have_ended() -> bool:
            return await _open_orders(engine) == 0

        await eventually(all_have_ended, timeout=120, what="the end of every order")
        report = await check_until_clean(engine, 0.0, patience_seconds=60)
    finally:
        await engine.dispose()
    assert report.clean, report.violations


async def record_idle(platform: PlatformDescription, supervisor: Supervisor) -> Sequence[Statement]:
    """What the services send while nobody orders.

    It takes as long as the newest messages need to be old enough for the auditor's round to look for them.
    """
    await log_statements(platform, "all")
    log = Log(supervisor)
    await asyncio.sleep(TOLERANCE_SECONDS)
    await log_statements(platform, "none")
    return log.new()


async def _open_orders(engine: AsyncEngine) -> int:
    query = "SELECT count(*) FROM gateway.generations WHERE status NOT IN ('completed', 'failed', 'cancelled')"
    async with engine.connect() as connection:
        return int((await connection.execute(text(query))).scalar_one())


@asynccontextmanager
async def _engine_of(dsn: str, pool_size: int) -> AsyncIterator[AsyncEngine]:
    engine = engine_for(dsn, application_name="bench", pool_size=pool_size, statement_timeout_ms=NO_TIMEOUT_MS)
    try:
        yield engine
    finally:
        await engine.dispose()


async def measure(dsn: str, superuser: AsyncEngine, call: Call, subjects: Subjects) -> Figure:
    """The pages that the second call on one connection touches."""
    prepare = PREPARATIONS.get(call)
    async with _engine_of(dsn, 1) as engine:
        if call is not check_everything:
            # What a first call reads of the catalogue is nothing beside all of history.
            await call(engine, subjects)
        if prepare is not None:
            await prepare(engine)
        before = await _pages(engine, superuser)
        began = time.perf_counter()
        await call(engine, subjects)
        seconds = time.perf_counter() - began
        return Figure(await _pages(engine, superuser) - before, seconds)


async def _measure_idle(
    statements: Sequence[Statement], dsn_of: Callable[[Service], str], superuser: AsyncEngine
) -> Figure:
    """The pages that the statements touch when they are sent for the second time."""

    def engine_of(service: Service) -> AsyncEngine:
        return engine_for(dsn_of(service), application_name="bench", pool_size=1)

    await send_again(statements, engine_of)
    before, began = await _pages(superuser, superuser), time.perf_counter()
    sent = await send_again(statements, engine_of)
    # A session tells its counts when it ends, and these have ended.
    figure = Figure(await _pages(superuser, superuser) - before, time.perf_counter() - began)
    say(f"  {IDLE}: {sent:,} statements, {figure.pages:,} pages, {figure.seconds * 1000:,.0f} ms")
    return figure


async def _pages(engine: AsyncEngine, superuser: AsyncEngine) -> int:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT pg_stat_force_next_flush()"))
    async with superuser.connect() as connection:
        return int((await connection.execute(_PAGES)).scalar_one())


async def detect_each(
    violations: Sequence[Violation], dsn: str, superuser: AsyncEngine, found: dict[str, list[Detected]]
) -> None:
    """Plant each violation in turn, and add how long the rounds took to find it."""
    async with _engine_of(dsn, 2) as engine:
        for violation in violations:
            detected = await detect(violation, engine, superuser, TOLERANCE_SECONDS, base_is_new)
            say(f"  {violation.name}: found after {detected}")
            found[violation.name].append(detected)


async def subjects_of(superuser: AsyncEngine, heavy: UUID, light: UUID) -> Subjects:
    """The newest order of the heavy user."""
    query = text(
        "SELECT generation_id FROM gateway.generations WHERE user_id = :heavy ORDER BY requested_at DESC LIMIT 1"
    )
    async with superuser.connect() as connection:
        return Subjects(heavy, light, (await connection.execute(query, {"heavy": heavy})).scalar_one())


async def main(sizes: Sequence[int], journal_days: int) -> None:
    """Make the base, multiply it to each size in turn, measure, print."""
    supervisor = Supervisor(PlatformOptions(name="scale", workers=0, follow_logs=False))
    heavy, light = uuid4(), [uuid4() for _ in range(LIGHT_USERS)]
    try:
        platform = await supervisor.start()
        async with instant_worker(platform):
            await place_orders(platform, heavy, light)
            await settle(platform)
        idle = await record_idle(platform, supervisor)
        for service in SERVICES:
            await supervisor.end(service)
        # What is counted is the whole database's.
        await _execute(platform, "ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()")
        figures: dict[str, list[Figure]] = {name: [] for name in (PASS, *(name for name, _, _ in CALLS), IDLE)}
        found: dict[str, list[Detected]] = {one.name: [] for one in (*BEFORE_ARCHIVE, *AFTER_ARCHIVE)}
        made: list[int] = []
        try:
            for size in sizes:
                database = await _restored(platform, size)
                done = _measure_size(platform, database, size, heavy, light[0], idle, figures, found, journal_days)
                made.append(await done)
                await _execute(platform, f"DROP DATABASE {database} WITH (FORCE)")
        finally:
            # An hour's work is shown, whatever ended it.
            print_table(made, figures, found)
    finally:
        await supervisor.stop()


async def _restored(platform: PlatformDescription, size: int) -> str:
    """A copy of the platform's database for one size."""
    origin = _database_of(platform.postgres.superuser_dsn)
    name = f"scale_{size}"
    await _execute(
        platform,
        f'CREATE DATABASE {name} TEMPLATE "{origin}"',
        f"GRANT CONNECT ON DATABASE {name} TO {', '.join(SERVICES)}",
    )
    return name


async def _execute(platform: PlatformDescription, *statements: str) -> None:
    """As superuser, in no database of the platform."""
    dsn = platform.postgres.superuser_dsn
    connection = await asyncpg.connect(dsn.replace(f"/{_database_of(dsn)}", "/postgres"))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def _database_of(dsn: str) -> str:
    return dsn.rpartition("/")[2].partition("?")[0]


async def _measure_size(
    platform: PlatformDescription,
    database: str,
    size: int,
    heavy: UUID,
    light: UUID,
    idle: Sequence[Statement],
    figures: dict[str, list[Figure]],
    found: dict[str, list[Detected]],
    journal_days: int,
) -> int:
    def of(dsn: str) -> str:
        return dsn.replace(f"/{_database_of(dsn)}", f"/{database}")

    superuser = engine_for(
        of(platform.postgres.superuser_dsn), application_name="bench", pool_size=4, statement_timeout_ms=0
    )
    try:
        copies = max(size // BASE_ORDERS - 1, 0)
        say(f"multiplying to {(copies + 1) * BASE_ORDERS:,} orders ...")
        began = time.perf_counter()
        await multiply(superuser, copies, heavy, journal_days=journal_days)
        async with superuser.begin() as connection:
            size_bytes = (await connection.execute(_SIZE)).scalar_one()
            for service in SERVICES:
                await connection.exec_driver_sql(_READ_TO_THE_END.format(schema=service))
        say(f"  took {time.perf_counter() - began:.0f} s; {size_bytes / 1e9:.1f} GB")
        subjects = await subjects_of(superuser, heavy, light)
        async with _engine_of(of(platform.postgres.dsns["billing"]), 2) as engine:
            await _seal_all(engine)
        # No relay runs that could publish the head of the tree.
        async with superuser.begin() as connection:
            await connection.execute(text("DELETE FROM billing.outbox_messages WHERE published_at IS NULL"))
        async with _engine_of(of(platform.postgres.dsns["auditor"]), 1) as engine:
            figures[PASS].append(await _prove_all(engine, superuser))
        for name, service, call in CALLS:
            figure = await measure(of(platform.postgres.dsns[service]), superuser, call, subjects)
            figures[name].append(figure)
            say(f"  {name}: {figure.pages:,} pages, {figure.seconds * 1000:,.0f} ms")
        figures[IDLE].append(await _measure_idle(idle, lambda service: of(platform.postgres.dsns[service]), superuser))
        auditor = of(platform.postgres.dsns["auditor"])
        await detect_each(BEFORE_ARCHIVE, auditor, superuser, found)
        await archive(of, platform, superuser, (copies + 1) * BASE_ORDERS, heavy)
        await detect_each(AFTER_ARCHIVE, auditor, superuser, found)
        return (copies + 1) * BASE_ORDERS
    finally:
        await superuser.dispose()


async def archive(
    of: Callable[[str], str], platform: PlatformDescription, superuser: AsyncEngine, orders: int, heavy: UUID
) -> None:
    """Archive what is older than a month, and print what an order weighs before and after."""
    before = await _weights(superuser, orders)
    oldest = await _oldest_order(superuser, heavy)
    async with _engine_of(of(platform.postgres.dsns["gateway"]), 1) as engine:
        timeline = await queries.list_timeline(engine, heavy, oldest)
        said = began = time.perf_counter()
        async for done in archiving.archive(engine, ARCHIVED_DAYS):
            if time.perf_counter() - said > SAID_SECONDS:
                said = time.perf_counter()
                say(f"  archived {done.orders:,} orders, {said - began:.0f} s")
        say(f"  archived {done}: took {time.perf_counter() - began:.0f} s")
        assert done.orders > 0
        assert await queries.list_timeline(engine, heavy, oldest) == timeline
    async with superuser.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM FULL ANALYZE gateway.activity"))
    after = await _weights(superuser, orders)
    named = dict.fromkeys((*list(before)[:HEAVIEST_TABLES], "gateway.archived_timelines"))
    rows = [(name, f"{before[name]:,}", f"{after[name]:,}") for name in named]
    others = [sum(one.values()) - sum(one[name] for name in named) for one in (before, after)]
    rows += [("all others", f"{others[0]:,}", f"{others[1]:,}")]
    rows += [("together", f"{sum(before.values()):,}", f"{sum(after.values()):,}")]
    say(f"bytes an order of {orders:,}, before and after the archive of what is older than {ARCHIVED_DAYS} days")
    say(table(("table", "before", "after"), rows))


async def _weights(superuser: AsyncEngine, orders: int) -> dict[str, int]:
    """Bytes an order of every table with its indexes and partitions, the heaviest first."""
    async with superuser.connect() as connection:
        rows = await connection.execute(_WEIGHTS, {"schemas": list(SERVICES)})
        return {name: int(size / orders) for name, size in rows}


async def _oldest_order(superuser: AsyncEngine, heavy: UUID) -> UUID:
    query = text("SELECT generation_id FROM gateway.generations WHERE user_id = :heavy ORDER BY requested_at LIMIT 1")
    async with superuser.connect() as connection:
        generation_id: UUID = (await connection.execute(query, {"heavy": heavy})).scalar_one()
    return generation_id


async def _seal_all(engine: AsyncEngine) -> None:
    """Seal the whole history and grow its tree, as a platform of this age has done."""
    began = time.perf_counter()
    sealer, grower = Sealer(engine), TreeGrower(Transactions(engine, producer="billing"), head_seconds=0)
    await sealer.seal()
    head = await sealer.seal()
    sealed = time.perf_counter()
    while True:
        await grower.grow()
        async with engine.connect() as connection:
            if (await tree.get_end(connection)).seal_number == head.seal_number:
                break
    say(f"  sealing everything took {sealed - began:.0f} s, its tree {time.perf_counter() - sealed:.0f} s")


async def _prove_all(engine: AsyncEngine, superuser: AsyncEngine) -> Figure:
    """One pass over everything, at rest: the multiplied history is sound, and proven to its end."""
    before, began = await _pages(engine, superuser), time.perf_counter()
    prover = Prover(engine, engine, 0.0, 60.0)
    while True:
        proven = await prover.prove()
        assert proven.report.clean, (proven.report.violations[:5], proven.report.unproven[:1])
        if len(proven.passes) == len(SCOPES) and all(one.proven_at is not None for one in proven.passes.values()):
            break
        ended = sorted(scope for scope, one in proven.passes.items() if one.proven_at is not None)
        say(f"  {time.perf_counter() - began:.0f} s of a pass; ended: {', '.join(ended)}")
    figure = Figure(await _pages(engine, superuser) - before, time.perf_counter() - began)
    say(f"  {PASS}: {figure.pages:,} pages, {figure.seconds:.0f} s")
    news = Prover(engine, engine, 0.0, 0)
    while not await _is_proven_to_the_end(engine):
        await news.prove()
    return figure


async def _is_proven_to_the_end(engine: AsyncEngine) -> bool:
    query = """
        SELECT w.posting_id >= (SELECT max(posting_id) FROM billing.balance_ledger)
        FROM auditor.proof_watermark AS w
    """
    async with engine.connect() as connection:
        return bool(await connection.scalar(text(query)))


def print_table(
    sizes: Sequence[int], figures: Mapping[str, Sequence[Figure]], found: Mapping[str, Sequence[Detected]]
) -> None:
    """Pages by size, and how much more the last costs than the first."""
    rows = []
    if not sizes:
        return
    for name, every in figures.items():
        row = every[: len(sizes)]
        growth = row[-1].pages / max(row[0].pages, 1)
        rows.append((name, *(f"{one.pages:,}" for one in row), "flat" if growth <= FLAT else f"x {growth:,.1f}"))
    say("\npages of 8 KiB by number of orders")
    say(table(("call", *(f"{size:,}" for size in sizes), "growth"), rows))
    say("\nuntil a round found it: rounds, and the seconds that they ran")
    planted = [(name, *(str(one) for one in every[: len(sizes)])) for name, every in found.items()]
    say(table(("planted", *(f"{size:,}" for size in sizes)), planted))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orders", default="1000,10000", help="sizes of the history, in order (default: 1000,10000)")
    journal_help = "how far the journal reaches back: the heaviest table, and flat (default: 90)"
    parser.add_argument("--journal-days", type=int, default=DAYS, help=journal_help)
    arguments = parser.parse_args()
    uvloop.run(main([int(size) for size in arguments.orders.split(",")], arguments.journal_days))
