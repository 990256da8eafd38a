"""The restore drill: a database goes back under load, and everything else stays as it is today.

    python -m tests.faults.restores [--restores 3] [--orders-per-second 2] [--seconds 20] [--seed 20261126]

Follows ``docs/restore.md`` with the tools that PostgreSQL ships: ``pg_basebackup``, an archive of the WAL, and recovery
to a moment in the past. NATS, the object store, RunPod and Stripe (emulators) keep what they know of the time after it.
Meanwhile users order pictures; some buy credits before the moment and pay after it, and some do both after it.

Within a minute after each restore every order that is left has ended, is charged once if it was delivered and not at
all if it was not, and has its file; every purchase that is left is credited from the provider; no credit is held, no
message dead, and every invariant of the auditor holds. Every accepted order and opened purchase that is gone was named
by ``after-restore``, and every file without an order belongs to one of those. In every second restore the services are
started before the streams are emptied: then they have to notice it and wait. Exit code 0 only then.
"""

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import msgspec

from contracts.gateway import GenerationRequested, VariantsRequested
from contracts.message import SERVICES
from contracts.payments import CreatePayment
from local_platform.console import say
from local_platform.description import PlatformDescription
from local_platform.process_table import ENDPOINT_ID
from local_platform.servers.binaries import postgres_programs
from local_platform.supervisor import PlatformOptions, Supervisor
from provisioning.after_restore import LostMessage
from tests.faults.books import check_books
from tests.faults.generations import Customers, Fleet, Inspection, grant_credits
from tests.faults.payments import SCENARIOS, Buyer, Providers, buy, reference_of
from tests.generation.worker import working
from tests.support.waiting import eventually

HEAL_SECONDS: Final = 90.0
SWEEP_SECONDS: Final = 10
BUYERS: Final = 3
"""In each restore: so many buy before the moment and pay after it, and so many do both after it."""
AFTER_THE_MOMENT: Final = 0.4
"""Share of the time under load that is lost."""
_STOP_SECONDS: Final = 60.0


@dataclass
class Lost:
    """What ``after-restore`` named in all restores."""

    orders: set[str] = field(default_factory=set)
    purchases: set[str] = field(default_factory=set)
    messages: Counter[str] = field(default_factory=Counter)

    def add(self, line: bytes) -> None:
        """One line of the command's output."""
        message = msgspec.json.decode(line, type=LostMessage)
        self.messages[message.subject] += 1
        if message.subject in (GenerationRequested.subject, VariantsRequested.subject):
            self.orders.update(message.generation_ids)
        elif message.subject == CreatePayment.subject:
            self.purchases.add(message.correlation_id)


class Backups:
    """Base backups of the platform's PostgreSQL and an archive of its WAL."""

    def __init__(self, supervisor: Supervisor, platform: PlatformDescription, directory: Path) -> None:
        self._supervisor = supervisor
        self._dsn = platform.postgres.superuser_dsn
        self._archive = directory / "archive"
        self._base = directory / "base"
        self._data = Path()
        self.password_file = directory / "nats-password"
        self.password_file.touch(mode=0o600)
        self.password_file.write_text(platform.nats.users["admin"])
        directory.chmod(0o755)
        self._archive.mkdir(mode=0o777)
        self._archive.chmod(0o777)

    async def enable(self) -> None:
        """Archive every segment of the WAL from now on."""
        self._data = Path(await self._ask("SHOW data_directory"))
        for name, value in (("archive_mode", "on"), ("archive_command", f"cp %p {self._archive}/%f")):
            await self._ask(f"ALTER SYSTEM SET {name} = '{value}'")
        await self._stop()
        await self._supervisor.revive("postgres")

    async def take(self) -> None:
        """A base backup, as ``pg_basebackup`` makes it."""
        shutil.rmtree(self._base, ignore_errors=True)
        arguments = ("--pgdata", str(self._base), "--dbname", self._dsn, "--checkpoint=fast", "--wal-method=none")
        await _run(str(postgres_programs() / "pg_basebackup"), *arguments, "--no-sync", "--no-password")

    async def mark(self, name: str) -> datetime:
        """The moment to go back to; a transaction that comes after it makes sure that recovery can find it."""
        moment: datetime = await self._ask("SELECT clock_timestamp()")
        await asyncio.sleep(0.05)
        await self._ask(f"CREATE TABLE public.after_{name} (n integer)")
        return moment

    async def restore(self, moment: datetime) -> None:
        """Stop the server, put the base backup in place, and recover up to ``moment``."""
        last = await self._ask("SELECT pg_walfile_name(pg_switch_wal())")
        await eventually(lambda: (self._archive / last).exists(), _STOP_SECONDS, f"the archived segment {last}")
        await self._stop()
        owner = self._data.stat()
        for old in self._data.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        shutil.copytree(self._base, self._data, dirs_exist_ok=True)
        with (self._data / "postgresql.auto.conf").open("a") as settings:
            settings.write(
                f"restore_command = 'cp {self._archive}/%f %p'\nrecovery_target_time = '{moment.isoformat()}'\n"
                "recovery_target_action = 'promote'\n"
            )
        (self._data / "recovery.signal").touch()
        self._data.chmod(0o700)
        for path in (self._data, *self._data.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
        await self._supervisor.revive("postgres")
        await eventually(self._is_promoted, _STOP_SECONDS, "the end of the recovery")

    async def _is_promoted(self) -> bool:
        try:
            return not await self._ask("SELECT pg_is_in_recovery()")
        except (OSError, asyncpg.PostgresError):
            return False

    async def _stop(self) -> None:
        self._supervisor.kill("postgres", signal.SIGINT)
        await eventually(lambda: not self._supervisor.alive("postgres"), _STOP_SECONDS, "the exit of postgres")

    async def _ask(self, query: str) -> Any:
        connection = await asyncpg.connect(self._dsn)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()


class Drill:
    """One platform under load that is restored again and again."""

    def __init__(
        self,
        supervisor: Supervisor,
        platform: PlatformDescription,
        backups: Backups,
        customers: Customers,
        fleet: Fleet,
        providers: Providers,
        clients: contextlib.AsyncExitStack,
    ) -> None:
        self._supervisor = supervisor
        self._platform = platform
        self._backups = backups
        self._customers = customers
        self._providers = providers
        self._clients = clients
        self._inspection = Inspection(platform, customers, fleet)
        self._buyers: list[Buyer] = []
        self.lost = Lost()

    async def restore_once(self, number: int, per_second: float, seconds: float) -> list[str]:
        """A backup, load, the moment, more load, and back; returns what is wrong a minute later."""
        await self._backups.take()
        say(f"{number}: base backup taken; {seconds:.0f} s of orders")
        over = asyncio.Event()
        ordering = asyncio.create_task(self._customers.place_orders(per_second, over))
        await asyncio.sleep(seconds * (1 - AFTER_THE_MOMENT))
        opened = [await buy(self._platform, SCENARIOS[0], self._clients) for _ in range(BUYERS)]
        moment = await self._backups.mark(str(number))
        self._buyers += [*opened, *[await buy(self._platform, SCENARIOS[0], self._clients) for _ in range(BUYERS)]]
        for buyer in self._buyers[-2 * BUYERS :]:
            await buyer.scenario.happens(self._providers, reference_of(buyer))
        await asyncio.sleep(seconds * AFTER_THE_MOMENT)
        over.set()
        await self._each_service(self._kill)
        say(f"{number}: services stopped; PostgreSQL goes back to {moment:%H:%M:%S.%f}")
        await self._backups.restore(moment)
        if number % 2:
            await self._after_restore()
            await self._each_service(self._supervisor.revive)
        else:
            starting = asyncio.create_task(self._each_service(self._supervisor.revive))
            await eventually(self._somebody_noticed, _STOP_SECONDS, "a service that names the command")
            say(f"{number}: started too early, the services wait: the database is older than the broker")
            await self._after_restore()
            await starting
        await ordering
        return await self._heal(number)

    async def _after_restore(self) -> None:
        output = await _run(
            *(sys.executable, "-m", "provisioning", "after-restore", "--nats-url", self._platform.nats.url),
            *("--nats-user", "admin", "--nats-password-file", str(self._backups.password_file)),
            *("--dsn", self._platform.postgres.dsns["auditor"]),
        )
        before = self.lost.messages.total()
        for line in output.splitlines():
            self.lost.add(line)
        say(f"after-restore: {self.lost.messages.total() - before} messages are lost; the streams are empty")

    async def _each_service(self, act: Callable[[str], Awaitable[None]]) -> None:
        await asyncio.gather(*(act(service) for service in SERVICES))

    async def _kill(self, service: str) -> None:
        self._supervisor.kill(service)
        await eventually(lambda: not self._supervisor.alive(service), _STOP_SECONDS, f"the exit of {service}")

    async def _somebody_noticed(self) -> bool:
        files = [Path(self._platform.processes[service].log_file) for service in SERVICES]
        return any("database_went_back" in log for log in await asyncio.to_thread(_read_all, files))

    async def _heal(self, number: int) -> list[str]:
        began = time.monotonic()
        errors = await self._find_errors()
        while errors and time.monotonic() - began < HEAL_SECONDS:
            await asyncio.sleep(0.5)
            errors = await self._find_errors()
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self._inspection.outcomes.items()))
        say(f"{number}: {time.monotonic() - began:.1f} s later: {outcomes}; {len(self.lost.orders)} orders are lost")
        return errors

    async def _find_errors(self) -> list[str]:
        try:
            if unfinished := await self._inspection.open_orders():
                return unfinished
            found = await self._inspection.find_errors()
            found += [wrong for buyer in self._buyers if (wrong := await self._wrong(buyer)) is not None]
        except (OSError, asyncpg.PostgresError, httpx.HTTPError) as error:
            return [f"not to be asked yet: {type(error).__name__}: {error}"]
        return [error for error in found if not self._is_of_a_lost_order(error)]

    async def _wrong(self, buyer: Buyer) -> str | None:
        if buyer.payment["id"] in self.lost.purchases:
            return None
        return await buyer.wrong()

    def _is_of_a_lost_order(self, error: str) -> bool:
        return any(lost in error for lost in self.lost.orders) and error.endswith(("not exist", "belongs to no order"))


def _read_all(files: Sequence[Path]) -> list[str]:
    return [file.read_text() for file in files]


async def _run(*command: str) -> bytes:
    """The output of a program. Raises RuntimeError with its complaint if it fails."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    output, complaint = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {complaint.decode()}")
    return output


async def main(restores: int, per_second: float, seconds: float, seed: int) -> int:
    """Run the drill and print its outcome. Returns the exit code."""
    environment = {
        "payments": {"PAYMENTS_EVENTS_SWEEP_SECONDS": str(SWEEP_SECONDS)},
    }
    supervisor = Supervisor(PlatformOptions(name="restore-drill", workers=0, environment=environment))
    errors: list[str] = []
    try:
        platform = await supervisor.start()
        api_key = platform.environments["generation"]["GENERATION_RUNPOD_API_KEY"]
        async with contextlib.AsyncExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reelhouse-restore-")))
            backups = Backups(supervisor, platform, directory)
            await backups.enable()
            # A restore forgets deletions, and their files are gone: an operator repeats them (docs/restore.md).
            customers, fleet = Customers(platform, random.Random(seed), deleted=0.0), Fleet(random.Random(seed + 1))
            stack.push_async_callback(customers.close)
            await grant_credits(platform, customers)
            worker = await stack.enter_async_context(working(platform.urls["runpod"], ENDPOINT_ID, api_key))
            worker.work = fleet.work
            providers = Providers(platform, stack)
            drill = Drill(supervisor, platform, backups, customers, fleet, providers, stack)
            for number in range(1, restores + 1):
                errors += await drill.restore_once(number, per_second, seconds)
            for subject, count in sorted(drill.lost.messages.items()):
                say(f"lost: {count} x {subject}")
        say("\n".join(errors) if errors else f"everything was right after each of {restores} restores")
        return max(await check_books(platform), 1 if errors else 0)
    finally:
        await supervisor.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--restores", type=int, default=3, help="how many, one after another (default: 3)")
    parser.add_argument("--orders-per-second", type=float, default=2.0, help="(default: 2)")
    parser.add_argument("--seconds", type=float, default=20.0, help="under load before each restore (default: 20)")
    parser.add_argument("--seed", type=int, default=20261126)
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.restores, options.orders_per_second, options.seconds, options.seed)))
