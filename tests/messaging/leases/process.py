"""One worker of a leased table, for tests that kill and freeze it.

``python -m tests.messaging.leases.process NAME MODULE:CASE WORK_SECONDS LEASE_SECONDS HEARTBEAT_SECONDS CONCURRENCY``,
with the environment of ``ServiceSettings``, and ``REELHOUSE_FAILPOINTS`` for where to die or freeze. Work that takes
less than nothing fails.
"""

import asyncio
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from importlib import import_module

from contracts.message import Service
from messaging.leased_worker import LeasedWorker
from messaging.leases import Leased
from messaging.transaction import Transactions
from service_runtime.backoff import Backoff
from service_runtime.database import create_engine
from service_runtime.lifecycle import run_process, run_service
from service_runtime.logging import configure_logging
from service_runtime.settings import ServiceSettings
from tests.messaging.leases.case import LeaseCase, complete_with_effect

POLL_SECONDS = 0.2


def leased_worker(
    name: str,
    case: LeaseCase,
    transactions: Transactions,
    work_seconds: float,
    lease_seconds: float,
    heartbeat_seconds: float,
    concurrency: int,
) -> LeasedWorker[Leased]:
    """A worker; each row takes it ``work_seconds`` and leaves one effect."""

    async def work(row: Leased) -> None:
        if work_seconds < 0:
            raise RuntimeError("this work fails")
        await asyncio.sleep(work_seconds)
        async with transactions.begin() as tx:
            await complete_with_effect(case, tx, row, name)

    return LeasedWorker(
        name,
        transactions,
        case.table,
        case.claim,
        work,
        concurrency=concurrency,
        poll_seconds=POLL_SECONDS,
        timeout_seconds=120,
        backoff=Backoff(first=timedelta(seconds=0.1), longest=timedelta(seconds=1)),
        lease=timedelta(seconds=lease_seconds),
        heartbeat=timedelta(seconds=heartbeat_seconds),
    )


async def main(name: str, make: Callable[[Transactions], LeasedWorker[Leased]], service: Service) -> None:
    """Work until told to stop."""
    settings = ServiceSettings()
    configure_logging(name, settings)
    engine = create_engine(settings)
    await run_service(name, settings, components=[make(Transactions(engine, service))], on_stop=engine.dispose)


if __name__ == "__main__":
    name, path, work, lease, heartbeat, concurrency = sys.argv[1:]
    module, _, attribute = path.partition(":")
    case: LeaseCase = getattr(import_module(module), attribute)()
    make = partial(
        leased_worker,
        name,
        case,
        work_seconds=float(work),
        lease_seconds=float(lease),
        heartbeat_seconds=float(heartbeat),
        concurrency=int(concurrency),
    )
    run_process(main(name, make, case.service))
