"""PostgreSQL fails over to a synchronous standby under orders, its old primary killed or frozen.

    python -m tests.faults.failover [--old-primary killed|frozen] [--orders-per-second 2] [--seed 20261126]

Services reach PostgreSQL by one address, which always leads to the primary, as the ``-rw`` service of CloudNativePG
does: here it is a TCP proxy. The standby replicates synchronously, so that what was committed is on both. The old
primary is killed, or frozen: then nothing is refused and nothing answers, not even on the connections that stand.
Nobody helps the services. Within a minute everything must be right, as in ``tests.faults.generations``, and no service
may have died. Exit code 0 only then.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import asyncpg
import httpx
import msgspec

from contracts.message import SERVICES
from local_platform.console import say
from local_platform.describing import DATABASE
from local_platform.servers import PostgresServer
from local_platform.servers.postgres import SUPERUSER
from local_platform.servers.processes import ServerFailedError
from local_platform.supervisor import PlatformOptions, Supervisor
from tests.faults.campaign import deaths_of_services, run_campaign
from tests.faults.disasters import family, signal_all
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

OldPrimary = Literal["killed", "frozen"]

QUIET_SECONDS: Final = 20.0
"""Orders before the fail-over, and after it."""
NOTICE_SECONDS: Final = 5.0
"""How long the operator of a cluster needs to see that the primary is gone."""


class Standby(PostgresServer):
    """A copy of a running primary that follows it."""

    def __init__(self, directory: Path, primary: PostgresServer) -> None:
        super().__init__(directory)
        self.superuser_password = primary.superuser_password
        self._primary = primary

    def _initialise(self, data: Path, password_file: Path, run_as: tuple[int, int] | None) -> None:
        options = (
            *("--pgdata", str(data), "--host", "127.0.0.1", "--port", str(self._primary.port)),
            *("--username", SUPERUSER, "--wal-method", "stream", "--checkpoint", "fast", "--write-recovery-conf"),
            *("--create-slot", "--slot", "standby", "--no-sync"),
        )
        self._run_program("pg_basebackup", options, data, run_as, {"PGPASSWORD": self.superuser_password})

    async def promote(self) -> None:
        """Become the primary. Returns when it takes writes."""
        connection = await asyncpg.connect(self.dsn())
        try:
            if not await connection.fetchval("SELECT pg_promote(wait => true, wait_seconds => 30)"):
                raise ServerFailedError("the standby was not promoted")
        finally:
            await connection.close()


class ReplicatedPlatform(Supervisor):
    """The local platform with a standby, and a proxy in front of whichever server is the primary."""

    def __init__(self, options: PlatformOptions) -> None:
        super().__init__(options)
        self.proxy: TcpProxy | None = None
        self.standby: Standby | None = None

    async def _start_database(self) -> None:
        await super()._start_database()
        primary = self.wiring.postgres
        self.standby = Standby(self.wiring.data_directory / "standby", primary)
        await self.standby.start()
        await _replicate_synchronously(primary)
        self.proxy = TcpProxy(("127.0.0.1", primary.port))
        await self.proxy.listen()
        self.wiring.dsns.update({role: self.proxy.through(dsn) for role, dsn in self.wiring.dsns.items()})

    async def stop(self) -> None:
        """Stop everything, the standby last."""
        if self.proxy is not None:
            await self.proxy.close()
        if self._wiring is not None and self.wiring.postgres.alive():
            signal_all(family(self.wiring.postgres.pid), signal.SIGCONT)
        await super().stop()
        if self.standby is not None and self.standby.alive():
            await self.standby.stop("immediate")


async def _replicate_synchronously(primary: PostgresServer) -> None:
    connection = await asyncpg.connect(primary.dsn())
    try:

        async def streams() -> bool:
            state: str | None = await connection.fetchval("SELECT sync_state FROM pg_stat_replication")
            return state == "sync"

        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await connection.execute("SELECT pg_reload_conf()")
        await eventually(streams, 30, "synchronous replication")
    finally:
        await connection.close()


class FailOver:
    """The one fault of this campaign."""

    def __init__(self, platform: ReplicatedPlatform, old_primary: OldPrimary, ready_urls: Sequence[str]) -> None:
        self._platform = platform
        self._old_primary = old_primary
        self._ready_urls = ready_urls
        self.counts: Counter[tuple[str, str]] = Counter()
        self.unexpected_deaths: list[str] = []

    async def run(self) -> None:
        """Quiet, the fail-over, and quiet again."""
        platform, primary = self._platform, self._platform.wiring.postgres
        assert platform.standby is not None
        assert platform.proxy is not None
        await asyncio.sleep(QUIET_SECONDS)
        self.counts["fail over", f"old primary {self._old_primary}"] += 1
        if self._old_primary == "killed":
            primary.kill()
        else:
            signal_all(family(primary.pid), signal.SIGSTOP)
        await asyncio.sleep(NOTICE_SECONDS)
        await platform.standby.promote()
        platform.proxy.target = ("127.0.0.1", platform.standby.port)
        began = time.monotonic()
        await eventually(self._accepts_orders, 60, "an order is accepted")
        say(f"the first order was accepted {time.monotonic() - began:.1f} s after the fail-over")
        await eventually(self._all_ready, 60, "every service is ready")
        await asyncio.sleep(QUIET_SECONDS)

    async def _accepts_orders(self) -> bool:
        """Whether the new primary has an order that was placed since it is one: there was none for seconds before."""
        standby = self._platform.standby
        assert standby is not None
        connection = await asyncpg.connect(standby.dsn(DATABASE))
        try:
            return bool(
                await connection.fetchval(
                    "SELECT EXISTS (SELECT FROM gateway.generation_requests"
                    " WHERE created_at > clock_timestamp() - interval '4 seconds')"
                )
            )
        finally:
            await connection.close()

    async def _all_ready(self) -> bool:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
            answers = await asyncio.gather(*(http.get(url) for url in self._ready_urls))
        return all(answer.is_success for answer in answers)


async def main(old_primary: OldPrimary, orders_per_second: float, seed: int) -> int:
    """Run the campaign and print its outcome. Returns the exit code."""
    supervisor = ReplicatedPlatform(PlatformOptions(name=f"faults-failover-{old_primary}", workers=0))
    try:
        platform = await supervisor.start()
        assert supervisor.proxy is not None
        superuser_dsn = supervisor.proxy.through(platform.postgres.superuser_dsn)
        postgres = msgspec.structs.replace(platform.postgres, superuser_dsn=superuser_dsn)
        platform = msgspec.structs.replace(platform, postgres=postgres)
        ready_urls = [platform.processes[name].ready_url or "" for name in SERVICES]
        faults = FailOver(supervisor, old_primary, ready_urls)
        async with deaths_of_services(supervisor, platform, faults.unexpected_deaths):
            return await run_campaign(platform, faults, faults.run, seed, orders_per_second)
    finally:
        await supervisor.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old-primary", choices=("killed", "frozen"), default="killed")
    parser.add_argument("--orders-per-second", type=float, default=2.0, help="(default: 2)")
    parser.add_argument("--seed", type=int, default=20261126)
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.old_primary, options.orders_per_second, options.seed)))
