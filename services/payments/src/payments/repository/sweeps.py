"""How far each sweep of each provider has read, and which replica makes it."""

from collections.abc import Sequence
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.payments import Provider
from messaging.leases import Claim, any_of
from payments.domain.records import Sweep
from payments.repository.leases import SWEEPS, Claimed
from payments.tables import sweeps


async def add_sweeps(connection: AsyncConnection, names: Sequence[str]) -> None:
    """Make sure that these sweeps (``<sweep>:<provider>``) are known; a new one is due at once."""
    rows = [{"name": name, "read_until": sa.func.now()} for name in names]
    await connection.execute(insert(sweeps).values(rows).on_conflict_do_nothing(index_elements=["name"]))


async def claim_sweeps(
    connection: AsyncConnection, provider: Provider, room: int, lease: timedelta
) -> list[Claimed[Sweep]]:
    """Claim a provider's sweeps whose time has come."""
    due = (
        sa.select(sweeps.c.name)
        .where(sweeps.c.name.endswith(f":{provider}"), SWEEPS.due())
        .order_by(sweeps.c.due_at)
        .limit(room)
        .with_for_update(skip_locked=True)
    )
    statement = (
        sa.update(sweeps)
        .where(any_of(sweeps.c.name, due))
        .values(SWEEPS.claim_values(lease))
        .returning(*sweeps.c, sa.func.now().label("started_at"))
    )
    return [
        Claimed(SWEEPS.claim_of(row), Sweep(name=row.name, read_until=row.read_until, started_at=row.started_at))
        for row in await connection.execute(statement)
    ]


async def finish_sweep(connection: AsyncConnection, claimed: Claimed[Sweep], interval: timedelta) -> bool:
    """Everything up to the beginning of this round has been seen. False if another worker has claimed it since."""
    return await SWEEPS.postpone(
        connection,
        claimed.claim,
        interval,
        read_until=claimed.row.started_at,
        finished_at=sa.func.now(),
        tries=0,
    )


async def postpone_sweep(connection: AsyncConnection, claim: Claim, delay: timedelta) -> None:
    """The round did not finish: the sweep is made again after ``delay``, from where the last one ended."""
    await SWEEPS.postpone(connection, claim, delay)
