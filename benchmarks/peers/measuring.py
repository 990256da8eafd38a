"""What one system does at a steady rate, what it costs there, and the highest rate that it makes."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import asyncpg
import psutil

from benchmarks.smoke import Load, Times, answers, completed_times, processor_seconds, summary
from local_platform.console import say

OURS: Final = "ours"
PLAIN: Final = "BullMQ"
"""With which ours is compared."""
RATE: Final = 20.0
WARM_UP_SECONDS: Final = 4.0
LADDER: Final = (30.0, 40.0, 60.0, 80.0, 120.0, 160.0)
LADDER_SECONDS: Final = 8.0
"""A rate that is a quarter more than a system can make is a second late, at the median, after so long."""
LATE_MS: Final = 1000.0
DRAIN_SECONDS: Final = 40.0

COUNTS: Final = """
    SELECT (SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()),
           sum(n_tup_ins), sum(n_tup_upd), pg_current_wal_insert_lsn() - '0/0'::pg_lsn
    FROM pg_stat_user_tables
"""


@dataclass(frozen=True, slots=True)
class System:
    """One of those that are compared. ``parts`` maps the heading of a part to the processes that it runs in."""

    name: str
    load: Load
    dsn: str
    times: str
    parts: Mapping[str, Sequence[int]]

    @property
    def app(self) -> Sequence[int]:
        """The processes of its own code."""
        return self.parts["app"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one system showed. ``counts`` are transactions, inserts, updates and bytes of WAL for each order."""

    answered_ms: Sequence[float]
    times: Times
    processor_ms: Mapping[str, float]
    counts: Sequence[float]
    memory_mb: float
    highest: str


async def measure(system: System, seconds: float, ladder: Sequence[float]) -> Measured:
    """Everything about one system that runs."""
    say(f"{system.name}: warming up ...")
    await _run(system, RATE, WARM_UP_SECONDS)
    say(f"{system.name}: {RATE:g} orders/s for {seconds:g} s ...")
    processor, counts = _processor(system), await _counts(system.dsn)
    times = await _run(system, RATE, seconds)
    orders = len(times.total_ms)
    processor_ms = {part: (after - processor[part]) * 1000 / orders for part, after in _processor(system).items()}
    counted = [(after - before) / orders for after, before in zip(await _counts(system.dsn), counts, strict=True)]
    answered, memory = list(system.load.answered_ms), _memory_mb(system.app)
    return Measured(answered, times, processor_ms, counted, memory, await _highest(system, times, ladder))


async def _run(system: System, per_second: float, seconds: float) -> Times:
    """Order, and wait until all that was placed is completed. Raises TimeoutError and ClientError."""
    generations = await system.load.run(per_second, seconds)
    if system.load.refused_ms:
        say(f"{system.name}: answered {answers(system.load)}")
    if not generations:
        raise RuntimeError(f"{system.name} placed no order")
    return await completed_times(system.dsn, system.times, generations, DRAIN_SECONDS)


async def _highest(system: System, steady: Times, ladder: Sequence[float]) -> str:
    """The highest rate at which the median order is delivered within a second; ``steady`` is what ``RATE`` gave."""
    if statistics.median(steady.total_ms) > LATE_MS:
        return f"below {RATE:g}/s"
    best = RATE
    for rate in ladder:
        say(f"{system.name}: {rate:g} orders/s for {LADDER_SECONDS:g} s ...")
        try:
            times = await _run(system, rate, LADDER_SECONDS)
        except (TimeoutError, RuntimeError, aiohttp.ClientError) as error:
            say(f"{system.name}: {rate:g}/s is too much: {error or type(error).__name__}")
            return f"{best:g}/s"
        if system.load.refused_ms:
            return f"{best:g}/s"
        median = statistics.median(times.total_ms)
        if median > LATE_MS:
            say(f"{system.name}: {rate:g}/s is too much: delivered after {median / 1000:.1f} s (median)")
            return f"{best:g}/s"
        best = rate
    return f"{best:g}/s or more" if ladder else "-"


def _processor(system: System) -> dict[str, float]:
    return {part: sum(map(processor_seconds, pids)) for part, pids in system.parts.items()}


def _memory_mb(pids: Sequence[int]) -> float:
    """Memory of these processes and their children; what several share counts once (PSS)."""
    members = [member for pid in pids for member in (psutil.Process(pid), *psutil.Process(pid).children(True))]
    return float(sum(member.memory_full_info().pss for member in members)) / 2**20


async def _counts(dsn: str) -> list[int]:
    """Of one database, but for the WAL. A busy session tells its counts once a second: here and there the same part."""
    connection = await asyncpg.connect(dsn)
    try:
        return [int(value) for value in await connection.fetchrow(COUNTS)]
    finally:
        await connection.close()


def result_rows(measured: Mapping[str, Measured]) -> list[list[str]]:
    """The table, with ours as a multiple of BullMQ's in the last column where both were measured."""
    ours, plain = measured.get(OURS), measured.get(PLAIN)
    parts = ("app", "PostgreSQL", "broker", "S3")

    def row(heading: str, show: Callable[[Measured], str], value: Callable[[Measured], float] | None) -> list[str]:
        ratio = f"{value(ours) / value(plain):.1f} x" if value and ours and plain else ""
        return [heading, *(show(one) for one in measured.values()), ratio]

    def times(heading: str, read: Callable[[Measured], Sequence[float]]) -> list[str]:
        return row(heading, lambda one: summary(read(one)), lambda one: statistics.median(read(one)))

    def total_ms(one: Measured) -> float:
        return sum(one.processor_ms.values())

    def processor(one: Measured) -> str:
        return f"{', '.join(f'{one.processor_ms[part]:.1f}' for part in parts)} = {total_ms(one):.0f}"

    def counts(one: Measured) -> str:
        *rows, wal = one.counts
        return f"{', '.join(f'{value:.1f}' for value in rows)}, {wal / 1024:.1f} KiB"

    return [
        times("POST, ms, median / p99", lambda one: one.answered_ms),
        times("accepted -> submitted", lambda one: one.times.submit_ms),
        times("callback -> completed", lambda one: one.times.complete_ms),
        times("accepted -> completed", lambda one: one.times.total_ms),
        row(f"processor, ms an order: {', '.join(parts)}", processor, total_ms),
        row("highest rate, median within 1 s", lambda one: one.highest, None),
        row("memory of the app (PSS)", lambda one: f"{one.memory_mb:.0f} MB", lambda one: one.memory_mb),
        row("PostgreSQL, an order: transactions, inserts, updates, WAL", counts, lambda one: one.counts[0]),
    ]
