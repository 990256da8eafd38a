"""What an order costs in PostgreSQL: statements, transactions and rows by service, messages and bytes of WAL.

    python -m benchmarks.order_cost [--rate 20] [--seconds 15] [--statements 40]

The server counts: it writes each statement into its log, and its statistics count the rows. So the numbers depend
little on how fast or how busy the machine is: more messages share a transaction when more orders come at once.
What the services do without orders is measured first and taken off. ``--statements`` prints the most frequent ones.
"""

import argparse
import asyncio
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import asyncpg
import uvloop

from benchmarks.instant_worker import instant_worker
from benchmarks.smoke import measure, platform_load
from contracts.message import SERVICES
from local_platform.console import say, table
from local_platform.description import PlatformDescription
from local_platform.supervisor import PlatformOptions, Supervisor
from tests.support.waiting import eventually

IDLE_SECONDS: Final = 60.0
"""Whole rounds of everything that is periodic: the auditor's check comes every 30 s, in one burst."""
COUNTED_SECONDS: Final = 12.0
"""The time after which the server has counted all rows: a session that idles tells its counts after 10 s."""

_LINE: Final = re.compile(r"^\S+ \S+ \w+ \[(\d+)\] (\w+)@\w+ (\w+):  (.*)$")
_SENT: Final = re.compile(r"(?:execute [^:]+|statement): (.*)", re.DOTALL)
_DRIVER: Final = re.compile(r"typeinfo_tree|set_config\('jit', |current_setting\('jit'\)")
"""What the driver asks once on each connection."""
_BEGIN: Final = "BEGIN"
_END: Final = ("COMMIT", "ROLLBACK")

_WRITE: Final = re.compile(r"\b(INSERT|UPDATE|DELETE)\b")
_MESSAGES: Final = " UNION ALL ".join(
    f"SELECT message_id FROM {service}.outbox_messages WHERE correlation_id = $1" for service in SERVICES
)

_ROWS: Final = """
    SELECT schemaname, sum(n_tup_ins) AS inserted, sum(n_tup_upd) AS updated, sum(n_tup_hot_upd) AS hot,
           sum(n_tup_del) AS deleted
    FROM pg_stat_user_tables WHERE schemaname = ANY ($1) GROUP BY schemaname
"""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement as a service sent it. ``transaction`` is a number of the transaction that it was part of."""

    service: str
    transaction: int
    sql: str
    parameters: str

    @property
    def is_control(self) -> bool:
        """Whether it only begins or ends a transaction."""
        return self.sql.startswith((_BEGIN, *_END))


@dataclass(slots=True)
class Sent:
    """How much a service sent. ``statements`` are without those that begin and end a transaction."""

    statements: int = 0
    transactions: set[int] = field(default_factory=set)


async def log_statements(platform: PlatformDescription, switch: Literal["all", "none"]) -> None:
    """Have the server write every statement into its log, or stop that."""
    connection = await asyncpg.connect(platform.postgres.superuser_dsn)
    try:
        await connection.execute(f"ALTER SYSTEM SET log_statement = '{switch}'")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()


def statements_in(log: str) -> Iterator[Statement]:
    """What the log says was executed, in order. A statement outside of a transaction has one of its own."""
    open_transactions: dict[str, int] = {}
    number = 0
    for session, service, sql, parameters in _executed(log):
        if sql.startswith(_BEGIN):
            number += 1
            open_transactions[session] = number
        current = open_transactions.get(session)
        if current is None:
            number += 1
            current = number
        yield Statement(service, current, sql, parameters)
        if sql.startswith(_END):
            open_transactions.pop(session, None)


def _executed(log: str) -> Iterator[tuple[str, str, str, str]]:
    """Session, role, statement and parameters. The lines of a statement after its first begin with a tab."""
    entries: list[list[str]] = []
    for line in log.splitlines():
        if line.startswith("\t") and entries:
            entries[-1][3] += f" {line.strip()}"
        elif match := _LINE.match(line):
            entries.append(list(match.groups()))
    parameters: dict[str, str] = {}
    # Backwards: the parameters of a statement come after it, and between may be lines of other sessions.
    executed = []
    for session, role, kind, text in reversed(entries):
        if kind == "DETAIL":
            parameters[session] = text
        elif kind == "LOG" and (sent := _SENT.match(text)):
            its_parameters = parameters.pop(session, "")
            if not _DRIVER.search(text):
                executed.append((session, role, sent[1], its_parameters))
    yield from reversed(executed)


def sent_by_service(statements: Collection[Statement]) -> dict[str, Sent]:
    """How much each service sent."""
    found: dict[str, Sent] = {service: Sent() for service in SERVICES}
    for one in statements:
        if one.service in found:
            found[one.service].transactions.add(one.transaction)
            found[one.service].statements += not one.is_control
    return found


async def sent_for_order(platform: PlatformDescription, log: "Log", generation_id: str) -> dict[str, Sent]:
    """The transactions, whole, that write and name an order, one of its attempts or messages in a parameter.

    Waits until the last service, the auditor, has all messages of the order.
    """
    connection = await asyncpg.connect(platform.postgres.superuser_dsn)
    try:
        await eventually(lambda: _is_journaled(connection, generation_id), 60, "the journal of the order")
        messages = await connection.fetch(_MESSAGES, generation_id)
        attempts = await connection.fetch(
            "SELECT attempt_id FROM generation.attempts WHERE generation_id = $1", generation_id
        )
    finally:
        await connection.close()
    ids = [generation_id, *(str(row[0]) for row in (*messages, *attempts))]
    return sent_by_service(_written_about(log.new(), ids))


async def _is_journaled(connection: asyncpg.Connection, generation_id: str) -> bool:
    known = "SELECT count(*) FROM auditor.journal WHERE correlation_id = $1"
    published = await connection.fetch(_MESSAGES, generation_id)
    return bool(await connection.fetchval(known, generation_id) == len(published))


def _written_about(statements: Sequence[Statement], ids: Collection[str]) -> list[Statement]:
    wanted = re.compile("|".join(map(re.escape, ids)))
    writing = {one.transaction for one in statements if _WRITE.search(one.sql)}
    named = {one.transaction for one in statements if wanted.search(one.parameters)}
    return [one for one in statements if one.transaction in writing & named]


@dataclass(frozen=True, slots=True)
class Counts:
    """What the server has counted so far."""

    rows: Mapping[str, Mapping[str, int]]
    wal_bytes: int
    messages: int


async def counts(platform: PlatformDescription) -> Counts:
    """What the server has counted so far; of a session that is busy, up to a second ago."""
    connection = await asyncpg.connect(platform.postgres.superuser_dsn)
    try:
        rows = await connection.fetch(_ROWS, list(SERVICES))
        wal = await connection.fetchval("SELECT wal_bytes FROM pg_stat_wal")
        published = [await connection.fetchval(f"SELECT count(*) FROM {one}.outbox_messages") for one in SERVICES]
    finally:
        await connection.close()
    return Counts(
        {row["schemaname"]: {key: int(row[key]) for key in ("inserted", "updated", "hot", "deleted")} for row in rows},
        int(wal),
        sum(published),
    )


class Log:
    """The end of a log that grows."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._path = supervisor.log_directory / "postgres.log"
        self._read = self._path.stat().st_size

    def new(self) -> list[Statement]:
        """The statements since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        return list(statements_in(data.decode(errors="replace")))


async def main(rate: float, seconds: float, shown: int) -> None:
    """Start, measure, print, stop."""
    supervisor = Supervisor(PlatformOptions(name="order-cost", workers=0, follow_logs=False))
    try:
        platform = await supervisor.start()
        async with instant_worker(platform), platform_load(platform) as load:
            await measure(platform, load, 5, 3)
            await log_statements(platform, "all")
            await asyncio.sleep(COUNTED_SECONDS)
            log, idle_before = Log(supervisor), await counts(platform)
            await asyncio.sleep(IDLE_SECONDS)
            idle, before = log.new(), await counts(platform)
            say(f"{rate:g} orders/s for {seconds:g} s ...")
            began = asyncio.get_running_loop().time()
            await measure(platform, load, rate, seconds)
            await asyncio.sleep(COUNTED_SECONDS)
            busy, after = log.new(), await counts(platform)
            busy_seconds = asyncio.get_running_loop().time() - began
    finally:
        await supervisor.stop()
    orders, share = int(rate * seconds), busy_seconds / IDLE_SECONDS
    _report(orders, share, (idle, busy), (idle_before, before, after))
    for heading, statements in (("idle, a second", idle), ("busy, an order", busy)):
        if shown:
            divisor = IDLE_SECONDS if statements is idle else orders
            frequent = Counter((one.service, one.sql) for one in statements if not one.is_control).most_common(shown)
            say(f"\n{heading}")
            for (service, sql), number in frequent:
                say(f"{number / divisor:7.2f} {service:10} {' '.join(sql.split())[:170]}")


def _report(
    orders: int,
    share: float,
    sent: tuple[Sequence[Statement], Sequence[Statement]],
    counted: tuple[Counts, Counts, Counts],
) -> None:
    idle, busy = (sent_by_service(one) for one in sent)
    idle_before, before, after = counted
    rows = []
    for service in SERVICES:
        statements = (busy[service].statements - idle[service].statements * share) / orders
        transactions = (len(busy[service].transactions) - len(idle[service].transactions) * share) / orders
        changed = []
        for kind in ("inserted", "updated", "hot", "deleted"):
            while_idle = before.rows[service][kind] - idle_before.rows[service][kind]
            changed.append((after.rows[service][kind] - before.rows[service][kind] - while_idle * share) / orders)
        rows.append([statements, transactions, *changed])
    total = [sum(column) for column in zip(*rows, strict=True)]
    cells = [
        (name, *(f"{value:.1f}" for value in values))
        for name, values in zip((*SERVICES, "together"), (*rows, total), strict=True)
    ]
    heading = ("an order", "statements", "transactions", "inserted", "updated", "of these HOT", "deleted")
    messages = (after.messages - before.messages) / orders
    wal = (after.wal_bytes - before.wal_bytes - (before.wal_bytes - idle_before.wal_bytes) * share) / orders / 1024
    say(table(heading, cells))
    say(f"messages {messages:.1f}, WAL {wal:.1f} KiB")
    say(f"idle: {sum(one.statements for one in idle.values()) / IDLE_SECONDS:.1f} statements a second")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=20.0, help="orders a second (default: 20)")
    parser.add_argument("--seconds", type=float, default=15.0, help="for how long (default: 15)")
    parser.add_argument("--statements", type=int, default=0, help="print so many of the most frequent (default: none)")
    arguments = parser.parse_args()
    uvloop.run(main(arguments.rate, arguments.seconds, arguments.statements))
