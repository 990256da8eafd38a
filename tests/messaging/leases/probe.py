"""A leased table that exists only in tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.message import Service
from messaging.ids import new_id
from messaging.leases import Claim, LeasedTable
from messaging.transaction import Transaction
from tests.messaging.leases.case import LeaseCase

if TYPE_CHECKING:
    from tests.support.databases import Database, MakeDatabase

probes = sa.Table(
    "probes",
    sa.MetaData(schema="billing"),
    # Two columns, so that keys of more than one are covered.
    sa.Column("shelf", sa.Text, primary_key=True),
    sa.Column("probe_id", sa.Uuid, primary_key=True),
    sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
    sa.Column("leased_until", sa.DateTime(timezone=True)),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("result", sa.Text),
)
PROBES = LeasedTable(probes)


@dataclass(frozen=True)
class Probe:
    """A claimed row."""

    claim: Claim


async def add_probes_table(database: "Database") -> None:
    """Create the table, and let the service's own role use it."""
    async with database.engine("billing_migrator").begin() as connection:
        await connection.run_sync(probes.create)
        await connection.execute(sa.text("GRANT SELECT, INSERT, UPDATE ON billing.probes TO billing"))


class ProbeCase(LeaseCase):
    """Claims the oldest first."""

    service: ClassVar[Service] = "billing"
    table: ClassVar[LeasedTable] = PROBES
    completed: ClassVar[Mapping[str, Any]] = {"result": "good"}

    async def database(self, make_database: "MakeDatabase") -> "Database":
        made = await make_database()
        await add_probes_table(made)
        return made

    async def add(self, tx: Transaction, count: int) -> None:
        rows = [{"shelf": "top", "probe_id": new_id()} for _ in range(count)]
        await tx.connection.execute(sa.insert(probes), rows)

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[Probe]:
        key = sa.tuple_(probes.c.shelf, probes.c.probe_id)
        chosen = (
            sa.select(probes.c.shelf, probes.c.probe_id)
            .where(PROBES.due())
            .order_by(probes.c.due_at)
            .limit(room)
            .with_for_update(skip_locked=True)
            .cte("chosen")
            .prefix_with("MATERIALIZED")
        )
        claimed = (
            sa.update(probes).where(key.in_(sa.select(chosen))).values(PROBES.claim_values(lease)).returning(*probes.c)
        )
        return [Probe(PROBES.claim_of(row)) for row in await connection.execute(claimed)]


class WrittenProbeCase(ProbeCase):
    """The same with a claim that is written as text."""

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[Probe]:
        statement = sa.text(f"""
            WITH chosen AS MATERIALIZED (
                SELECT shelf, probe_id FROM billing.probes AS p WHERE {PROBES.due_sql("p")}
                ORDER BY p.due_at LIMIT :room FOR UPDATE OF p SKIP LOCKED
            )
            UPDATE billing.probes AS p SET {PROBES.claim_sql("p")}
            FROM chosen WHERE (p.shelf, p.probe_id) = (chosen.shelf, chosen.probe_id)
            RETURNING p.*
        """)
        rows = await connection.execute(statement, {"room": room, "lease": lease})
        return [Probe(PROBES.claim_of(row)) for row in rows]
