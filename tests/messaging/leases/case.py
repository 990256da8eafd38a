"""How the conformance suite meets one leased table, and the effects that its workers leave."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.message import Service
from messaging.leases import Claim, Leased, LeasedTable
from messaging.transaction import Transaction

if TYPE_CHECKING:  # a worker's process makes no database: to import what does would double the time of its start
    from tests.support.databases import Database, MakeDatabase


class LeaseCase(Protocol):
    """One leased table with its service's own claim query. It is made without arguments, in other processes, too."""

    service: ClassVar[Service]
    table: ClassVar[LeasedTable]
    completed: ClassVar[Mapping[str, Any]]
    """What completing a row must write besides, to satisfy the table's own constraints."""

    async def database(self, make_database: "MakeDatabase") -> "Database":
        """A database with the table in it."""
        return await make_database(self.service)

    async def add(self, tx: Transaction, count: int) -> None:
        """Insert ``count`` rows that are due now."""

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[Leased]:
        """Claim rows as the service does."""


def name_of(claim: Claim) -> str:
    """One text for a key, however many columns it has."""
    return "/".join(str(part) for part in claim.key)


async def add_effects_table(case: LeaseCase, database: "Database") -> None:
    """Where workers write what they have done, in the transaction that completes it."""
    schema = case.service
    async with database.engine(f"{schema}_migrator").begin() as connection:
        await connection.execute(text(f"CREATE TABLE {schema}.lease_effects (key text, worker text, done boolean)"))
        await connection.execute(text(f"GRANT SELECT, INSERT ON {schema}.lease_effects TO {schema}"))


async def complete_with_effect(case: LeaseCase, tx: Transaction, row: Leased, worker: str) -> None:
    """Complete a row; leave an effect if that was granted, and a note of the refusal if not."""
    done = await case.table.complete(tx.connection, row.claim, **case.completed)
    await tx.connection.execute(
        text(f"INSERT INTO {case.service}.lease_effects (key, worker, done) VALUES (:key, :worker, :done)"),
        {"key": name_of(row.claim), "worker": worker, "done": done},
    )


async def effects(case: LeaseCase, engine: AsyncEngine, *, done: bool) -> list[tuple[str, str]]:
    """Key and worker of each effect, or of each refusal."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(f"SELECT key, worker FROM {case.service}.lease_effects WHERE done = :done ORDER BY key"),
            {"done": done},
        )
        return [(key, worker) for key, worker in rows]
