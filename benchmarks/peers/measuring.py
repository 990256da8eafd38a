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
LADDER: Final = (RATE, 30.0, 40.0, 60.0, 80.0, 120.0, 160.0)
LADDER_SECONDS: Final = 8.0
"""A rate that is a quarter more than a system can make is a second late, at the median, after so long."""
LATE_MS: Final = 1000.0
DRAIN_SECONDS: Final = 40.0
PARTS: Final = ("app", "PostgreSQL", "broker", "S3")
"""Of what takes processor time, as they stand in the table."""

COUNTS: Final = """
    SELECT (SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()),
           sum(n_tup_ins), sum(n_tup_upd), pg_current_wal_insert_lsn() - '0/0'::pg_lsn
    FROM pg_stat_user_tables
"""


@dataclass(frozen=True, slots=True)
class System:
    """One of those that are compared. ``parts`` maps each of ``PARTS`` to the processes that it runs in."""

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

    @property
    def total_ms(self) -> float:
        """Processor time of an order, all parts."""
        return sum(self.processor_ms.values())


async def measure(system: System, seconds: float) -> Measured:
    """One turn of one system that runs, at ``RATE``."""
    say(f"{system.name}: warming up ...")
    await _run(system, RATE, WARM_UP_SECONDS)
    say(f"{system.name}: {RATE:g} orders/s for {seconds:g} s ...")
    processor, counts = _processor(system), await _counts(system.dsn)
    times = await _run(system, RATE, seconds)
    orders = len(times.total_ms)
    processor_ms = {part: (after - processor[part]) * 1000 / orders for part, after in _processor(system).items()}
    counted = [(after - before) / orders for after, before in zip(await _counts(system.dsn), counts, strict=True)]
    return Measured(list(system.load.answered_ms), times, processor_ms, counted, _memory_mb(system.app))


def together(turns: Sequence[Measured]) -> Measured:
    """All turns of one system, of which each has as many orders: every order's times, and the means of the rest."""
    return Measured(
        answered_ms=[value for turn in turns for value in turn.answered_ms],
        times=Times(
            submit_ms=[value for turn in turns for value in turn.times.submit_ms],
            complete_ms=[value for turn in turns for value in turn.times.complete_ms],
            total_ms=[value for turn in turns for value in turn.times.total_ms],
        ),
        processor_ms={part: statistics.fmean(turn.processor_ms[part] for turn in turns) for part in PARTS},
        counts=[statistics.fmean(values) for values in zip(*(turn.counts for turn in turns), strict=True)],
        memory_mb=statistics.fmean(turn.memory_mb for turn in turns),
    )


async def _run(system: System, per_second: float, seconds: float) -> Times:
    """Order, and wait until all that was placed is completed. Raises TimeoutError and ClientError."""
    generations = await system.load.run(per_second, seconds)
    if system.load.refused_ms:
        say(f"{system.name}: answered {answers(system.load)}")
    if not generations:
        raise RuntimeError(f"{system.name} placed no order")
    return await completed_times(system.dsn, system.times, generations, DRAIN_SECONDS)


async def highest_rate(system: System) -> str:
    """The highest rate of ``LADDER`` at which the median order is delivered within a second."""
    best = f"below {LADDER[0]:g}/s"
    for rate in LADDER:
        say(f"{system.name}: {rate:g} orders/s for {LADDER_SECONDS:g} s ...")
        try:
            times = await _run(system, rate, LADDER_SECONDS)
        except (TimeoutError, RuntimeError, aiohttp.ClientError) as error:
            say(f"{system.name}: {rate:g}/s is too much: {error or type(error).__name__}")
            return best
        if system.load.refused_ms:
            return best
        median = statistics.median(times.total_ms)
        if median > LATE_MS:
            say(f"{system.name}: {rate:g}/s is too much: delivered after {median / 1000:.1f} s (median)")
            return best
        best = f"{rate:g}/s"
    return f"{best} or more"


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


def result_rows(measured: Mapping[str, Measured], highest: Mapping[str, str]) -> list[list[str]]:
    """The table, with ours as a multiple of BullMQ's in the last column where both were measured."""
    ours, plain = measured.get(OURS), measured.get(PLAIN)

    def row(heading: str, show: Callable[[Measured], str], value: Callable[[Measured], float]) -> list[str]:
        ratio = f"{value(ours) / value(plain):.1f} x" if ours and plain else ""
        return [heading, *(show(one) for one in measured.values()), ratio]

    def times(heading: str, read: Callable[[Measured], Sequence[float]]) -> list[str]:
        return row(heading, lambda one: summary(read(one)), lambda one: statistics.median(read(one)))

    def processor(one: Measured) -> str:
        return f"{', '.join(f'{one.processor_ms[part]:.1f}' for part in PARTS)} = {one.total_ms:.0f}"

    def counts(one: Measured) -> str:
        *rows, wal = one.counts
        return f"{', '.join(f'{value:.1f}' for value in rows)}, {wal / 1024:.1f} KiB"

    return [
        times("POST, ms, median / p99", lambda one: one.answered_ms),
        times("accepted -> submitted", lambda one: one.times.submit_ms),
        times("callback -> completed", lambda one: one.times.complete_ms),
        times("accepted -> completed", lambda one: one.times.total_ms),
        row(f"processor, ms an order: {', '.join(PARTS)}", processor, lambda one: one.total_ms),
        ["highest rate, median within 1 s", *(highest.get(name, "-") for name in measured), ""],
        row("memory of the app (PSS)", lambda one: f"{one.memory_mb:.0f} MB", lambda one: one.memory_mb),
        row("PostgreSQL, an order: transactions, inserts, updates, WAL", counts, lambda one: one.counts[0]),
    ]


def turn_rows(turns: Mapping[str, Sequence[Measured]]) -> list[list[str]]:
    """Processor time of an order in each turn: says how far the speed of the machine changed between them."""
    return [
        [str(number), *(f"{one.total_ms:.0f}" for one in alike), _ratio(dict(zip(turns, alike, strict=True)))]
        for number, alike in enumerate(zip(*turns.values(), strict=True), 1)
    ]


def _ratio(turn: Mapping[str, Measured]) -> str:
    return f"{turn[OURS].total_ms / turn[PLAIN].total_ms:.1f} x" if {OURS, PLAIN} <= turn.keys() else ""
