"""How far each sweep of each provider has read, and which replica makes it."""

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from payments.domain.records import Sweep
from payments.tables import sweeps


async def claim_sweep(connection: AsyncConnection, name: str, interval: timedelta, lease: timedelta) -> Sweep | None:
    """Take a sweep whose time has come, for one replica; None if it is not due or is being made."""
    await connection.execute(
        insert(sweeps).values(name=name, read_until=sa.func.now()).on_conflict_do_nothing(index_elements=["name"])
    )
    statement = (
        sa.update(sweeps)
        .where(
            sweeps.c.name == name,
            sa.or_(sweeps.c.finished_at.is_(None), sweeps.c.finished_at <= sa.func.now() - interval),
            sa.or_(sweeps.c.leased_until.is_(None), sweeps.c.leased_until < sa.func.now()),
        )
        .values(leased_until=sa.func.now() + lease)
        .returning(*sweeps.c, sa.func.now().label("started_at"))
    )
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        return None
    return Sweep(name=row.name, read_until=row.read_until, started_at=row.started_at, leased_until=row.leased_until)


async def release_sweep(connection: AsyncConnection, claim: Sweep, pause: timedelta) -> None:
    """Leave a sweep that did not finish to be made again after ``pause``; a finished one is left alone."""
    await connection.execute(_claimed(claim).values(leased_until=sa.func.now() + pause))


async def finish_sweep(connection: AsyncConnection, claim: Sweep) -> None:
    """Everything up to the beginning of this round has been seen."""
    await connection.execute(
        _claimed(claim).values(read_until=claim.started_at, finished_at=sa.func.now(), leased_until=None)
    )


def _claimed(claim: Sweep) -> sa.Update:
    return sa.update(sweeps).where(sweeps.c.name == claim.name, sweeps.c.leased_until == claim.leased_until)
