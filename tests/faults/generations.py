"""Orders on a whole platform whose every part is killed, frozen and made to forget, at random.

    python -m tests.faults.generations [--disasters 200] [--per-second 0.7] [--orders-per-second 3] [--seed 20261123]

Users order pictures and cancel some, as a patient frontend does: what gets no answer is repeated under its key. All the
while services, PostgreSQL, NATS and the object store are killed with -9, services are frozen past their leases, the
broker's store is wiped or replaced by an older copy, and RunPod (the emulator) loses, repeats and delays what it says,
loses jobs, refuses and fails. One seed is one schedule. When it is over, everything must be right within a minute, and
nobody tells the platform to hurry: every order ended, charged once if it was delivered and not at all if it was not,
its own file in the library, no dead letter, all invariants of the auditor. Exit code 0 only then.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import boto3
import httpx
from botocore.config import Config

from billing.commands import grant
from billing.settings import CommandSettings
from contracts.billing import GrantCredits
from contracts.message import SERVICES
from local_platform.api_client import ApiClient, UnexpectedAnswerError
from local_platform.console import say, table
from local_platform.description import PlatformDescription
from local_platform.process_table import ENDPOINT_ID
from local_platform.supervisor import PlatformOptions, Supervisor
from messaging.ids import new_id
from tests.faults.books import check_books
from tests.faults.disasters import Disasters, schedule
from tests.generation.worker import Worker, working
from tests.support.media import picture

USERS: Final = 12
CREDITS: Final = 1_000_000
SIDE_PIXELS: Final = 256
PICTURES: Final = 40
CANCELLED: Final = 0.12
"""Part of the orders that their users think better of."""
HEALED_WITHIN_SECONDS: Final = 60.0
UPLOAD_TRIES: Final = 4
TELL_EVERY_SECONDS: Final = 15.0

QUICK_TIMERS: Final = {
    "GENERATION_RUNPOD_TIMEOUT_SECONDS": "5",
    "GENERATION_LEASE_SECONDS": "10",
    "GENERATION_SWEEP_FIRST_SECONDS": "4",
    "GENERATION_SWEEP_INTERVAL_SECONDS": "4",
    "GENERATION_AMBIGUOUS_WAIT_SECONDS": "8",
    "GENERATION_CANCEL_TIMEOUT_SECONDS": "8",
    "GENERATION_BREAKER_LONGEST_SECONDS": "8",
    "GENERATION_RETRY_BACKOFF_LONGEST_SECONDS": "8",
}
"""Production's timers wait for minutes where nothing is known; the rules that they drive are the same."""

MISBEHAVIOUR: Final[tuple[dict[str, Any], ...]] = (
    {"effect": "drop_webhook", "probability": 0.15},
    {"effect": "double_webhook", "probability": 0.15, "copies": 3},
    {"effect": "delay_webhook", "probability": 0.1, "delay_seconds": 3.0},
    {"effect": "accept_then_reset", "operation": "run", "probability": 0.05},
    {"effect": "accept_then_error", "operation": "run", "probability": 0.03, "http_status": 502},
    {"effect": "answer_error", "operation": "run", "probability": 0.05, "http_status": 429},
    {"effect": "answer_error", "operation": "status", "probability": 0.1, "http_status": 500},
    {"effect": "lose_queued_job", "probability": 0.02},
    {"effect": "lose_running_job", "probability": 0.02, "delay_seconds": 0.1},
    {"effect": "late_success", "probability": 0.02, "delay_seconds": 0.1, "status": "TIMED_OUT"},
    {"effect": "fail_job", "probability": 0.03},
    {"effect": "lose_output", "probability": 0.02},
)

OPEN: Final = """
    SELECT count(*) FROM gateway.generations WHERE status NOT IN ('completed', 'failed', 'cancelled', 'refused')
"""

ORDERS: Final = """
    SELECT o.generation_id, o.user_id, o.status, o.price_credits, o.late, o.captured_credits AS shown_credits,
           g.status AS status_there, g.late AS late_there, r.status AS reservation, r.captured_credits,
           (SELECT count(*) FROM billing.reservations AS x WHERE x.generation_id = o.generation_id) AS reservations,
           a.object_key, a.sha256, q.idempotency_key
    FROM gateway.generations AS o
    JOIN gateway.generation_requests AS q USING (generation_id)
    LEFT JOIN generation.video_generations AS g USING (generation_id)
    LEFT JOIN billing.reservations AS r USING (generation_id)
    LEFT JOIN storage.assets AS a ON a.generation_id = o.generation_id AND a.role = 'output'
"""

BALANCES: Final = """
    SELECT u.user_id, u.available_credits, u.reserved_credits, b.available_credits AS shown_available,
           b.reserved_credits AS shown_reserved
    FROM billing.users AS u LEFT JOIN gateway.balances AS b USING (user_id)
"""


@dataclass
class Wish:
    """One order as its user knows it. ``generation_id`` is None until somebody has said yes; ``said`` is what was."""

    user: int
    key: str
    body: dict[str, Any]
    generation_id: str | None = None
    said: str = "nothing"


class Customers:
    """Users with credits who order at an even rate until they are told to stop."""

    def __init__(self, platform: PlatformDescription, source: random.Random) -> None:
        self._source = source
        self.users = [ApiClient(platform, new_id(), "pro") for _ in range(USERS)]
        self.wishes: list[Wish] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def order(self, per_second: float, over: asyncio.Event) -> None:
        """Order until ``over``, and then wait for the answers that are missing, as long as may be."""
        began = time.monotonic()
        while not over.is_set():
            user, number = self._source.randrange(USERS), len(self.wishes)
            parameters = {"prompt": f"picture {number}", "width": SIDE_PIXELS, "height": SIDE_PIXELS}
            wish = Wish(user, str(new_id()), {"model_id": "flux-schnell", "parameters": parameters})
            self.wishes.append(wish)
            regret = self._source.uniform(0.0, 3.0) if self._source.random() < CANCELLED else None
            self._tasks.append(asyncio.create_task(self._order(wish, regret)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), max(0.0, began + len(self.wishes) / per_second - time.monotonic()))
        answered, silent = await asyncio.wait(self._tasks, timeout=HEALED_WITHIN_SECONDS)
        for task in silent:
            task.cancel()
        for task in answered:
            task.result()

    async def again(self, wish: Wish) -> str:
        """Repeat an order under its key; the id it is answered with."""
        answer = await self.users[wish.user].post("/v1/generations", wish.body, wish.key, expect=200)
        return str(answer["id"])

    async def _order(self, wish: Wish, regret_after_seconds: float | None) -> None:
        while wish.generation_id is None:
            try:
                repeated = wish.said != "nothing"
                answer = await self.users[wish.user].post("/v1/generations", wish.body, wish.key, repeated=repeated)
            except UnexpectedAnswerError as error:
                # The gateway was away for long, or found so much repeating too much: a patient user goes on.
                wish.said = str(error)
                await asyncio.sleep(1.0)
            else:
                wish.generation_id = answer["id"]
        if regret_after_seconds is not None:
            await asyncio.sleep(regret_after_seconds)
            # It may have ended by now: then there is nothing to cancel, and that is an answer, too.
            with contextlib.suppress(UnexpectedAnswerError):
                path = f"/v1/generations/{wish.generation_id}/cancel"
                await self.users[wish.user].post(path, {}, str(new_id()), expect=202)

    async def close(self) -> None:
        """Hang up."""
        for user in self.users:
            await user.__aexit__()


class Fleet:
    """What the GPUs do: another picture for each job, and a note of which order got which."""

    def __init__(self, source: random.Random) -> None:
        self._source = source
        self._pictures = [picture(SIDE_PIXELS, SIDE_PIXELS, seed) for seed in range(PICTURES)]
        self.uploaded: defaultdict[str, set[str]] = defaultdict(set)
        self.jobs = 0

    async def work(self, worker: Worker, job: dict[str, Any]) -> dict[str, Any] | None:
        """The script of the worker."""
        content = self._pictures[self.jobs % PICTURES]
        self.jobs += 1
        generation_id = job["input"]["output"]["object_key"].split("/")[0]
        if self._source.random() < 0.3:
            await worker.progress(job, 50)
        for tries in range(UPLOAD_TRIES):
            try:
                output = await worker.upload(job, content)
            except httpx.HTTPError:
                await asyncio.sleep(0.5 * 2**tries)
            else:
                self.uploaded[generation_id].add(output["outputs"][0]["sha256"])
                return {"output": output}
        return {"error": json.dumps({"code": "upload_failed", "detail": "the bucket is away", "user_fault": False})}


class Truth:
    """Looks at the databases and the library from outside, and compares them with what the users were told."""

    def __init__(self, platform: PlatformDescription, customers: Customers, fleet: Fleet) -> None:
        self._platform = platform
        self._customers = customers
        self._fleet = fleet
        self.ends: Counter[str] = Counter()

    async def open_orders(self) -> int:
        """How many orders have not ended, in the eyes of the gateway."""
        connection = await asyncpg.connect(self._platform.postgres.superuser_dsn)
        try:
            return int(await connection.fetchval(OPEN))
        finally:
            await connection.close()

    async def wrong(self) -> list[str]:
        """Whatever is not as it must be, of a platform at rest."""
        connection = await asyncpg.connect(self._platform.postgres.superuser_dsn)
        try:
            orders = {str(row["generation_id"]): row for row in await connection.fetch(ORDERS)}
            balances = {row["user_id"]: row for row in await connection.fetch(BALANCES)}
            left = [await self._left_over(connection, service) for service in SERVICES]
        finally:
            await connection.close()
        objects = await asyncio.to_thread(self._library)
        found = [what for one in left for what in one]
        self.ends = Counter(row["status"] + (" late" if row["late"] else "") for row in orders.values())
        for row in orders.values():
            found += [f"{row['generation_id']}: {what}" for what in self._wrong_with_order(row, objects)]
        found += self._wrong_with_wishes(orders)
        found += self._wrong_with_balances(orders, balances)
        outputs = {row["object_key"] for row in orders.values() if row["object_key"] is not None}
        posters = {key for key in objects if key.endswith(".jpg")}
        found += [f"{key} lies in the library for nothing" for key in objects.keys() - outputs - posters]
        return found

    def _wrong_with_order(self, row: asyncpg.Record, objects: dict[str, str]) -> list[str]:
        found = []
        delivered = row["status"] == "completed"
        if row["status_there"] is not None and row["status"] != row["status_there"]:
            found.append(f"{row['status']} in the gateway, {row['status_there']} in generation")
        if row["late_there"] is not None and row["late"] != row["late_there"]:
            found.append("late in one place only")
        if row["reservations"] != 1:
            found.append(f"{row['reservations']} reservations")
        due = row["price_credits"] if delivered and not row["late"] else 0
        if (row["captured_credits"], row["shown_credits"] or 0) != (due, due):
            found.append(f"{due} credits are due, {row['captured_credits']} were charged, {row['shown_credits']} shown")
        if row["reservation"] not in ("captured", "released"):
            found.append(f"its reservation is {row['reservation']}")
        if delivered != (row["object_key"] is not None):
            found.append(f"{row['status']}, but its file is {row['object_key']}")
        if row["object_key"] is not None:
            if objects.get(row["object_key"]) != row["sha256"]:
                found.append("the library has another file than is recorded")
            if row["sha256"] not in self._fleet.uploaded[str(row["generation_id"])]:
                found.append("it was delivered a file that was made for another order")
        return found

    def _wrong_with_wishes(self, orders: dict[str, asyncpg.Record]) -> list[str]:
        found = []
        keys = Counter(row["idempotency_key"] for row in orders.values())
        for wish in self._customers.wishes:
            if wish.generation_id is None:
                found.append(f"no answer to key {wish.key}: {wish.said}")
            elif wish.generation_id not in orders:
                found.append(f"{wish.generation_id} was promised and does not exist")
            elif keys[wish.key] != 1:
                found.append(f"key {wish.key} made {keys[wish.key]} orders")
        return found

    def _wrong_with_balances(
        self, orders: dict[str, asyncpg.Record], balances: dict[UUID, asyncpg.Record]
    ) -> list[str]:
        found = []
        for user in self._customers.users:
            spent = sum(row["captured_credits"] or 0 for row in orders.values() if row["user_id"] == user.user_id)
            seen = tuple(balances[user.user_id])[1:]
            if seen != (CREDITS - spent, 0) * 2:
                found.append(f"user {user.user_id} has {seen}, having spent {spent}")
        return found

    async def _left_over(self, connection: asyncpg.Connection, service: str) -> list[str]:
        letters = await connection.fetch(f"SELECT subject, reason, error FROM {service}.dead_letters")
        query = f"SELECT count(*) FROM {service}.outbox_messages WHERE published_at IS NULL"
        unpublished = await connection.fetchval(query)
        found = [f"{service} has a dead letter: {tuple(letter)}" for letter in letters]
        return found + ([f"{service} has {unpublished} messages to publish"] if unpublished else [])

    def _library(self) -> dict[str, str]:
        """Key to sha256 as it was recorded when the object was written."""
        keys = self._platform.s3.credentials["admin"]
        client = boto3.client(
            "s3",
            endpoint_url=self._platform.s3.endpoint_url,
            region_name=self._platform.s3.region,
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key,
            config=Config(s3={"addressing_style": "path"}, proxies={}),
        )
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="library")
        found = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key: client.head_object(Bucket="library", Key=key)["Metadata"].get("sha256", "") for key in found}


async def main(disasters: int, per_second: float, orders_per_second: float, seed: int) -> int:
    """Run it all and print the outcome; returns the exit code."""
    environment = {"generation": QUICK_TIMERS}
    supervisor = Supervisor(PlatformOptions(name="faults-generations", workers=0, environment=environment))
    try:
        platform = await supervisor.start()
        customers, fleet = Customers(platform, random.Random(seed + 1)), Fleet(random.Random(seed + 2))
        api_key = platform.environments["generation"]["GENERATION_RUNPOD_API_KEY"]
        await _grant(platform, customers)
        await _misbehave(platform, seed)
        with tempfile.TemporaryDirectory(prefix="reelhouse-faults-") as copies:
            befalling, over = Disasters(supervisor, Path(copies)), asyncio.Event()
            async with working(platform.urls["runpod"], ENDPOINT_ID, api_key) as worker:
                worker.work = fleet.work
                ordering = asyncio.create_task(customers.order(orders_per_second, over))
                telling = asyncio.create_task(_tell(customers, befalling, disasters))
                try:
                    await befalling.let_happen(schedule(seed, disasters, per_second))
                finally:
                    over.set()
                    telling.cancel()
                return await _judge(platform, customers, fleet, befalling, ordering)
    finally:
        await supervisor.stop()


async def _grant(platform: PlatformDescription, customers: Customers) -> None:
    settings = CommandSettings(database_url=platform.postgres.dsns["billing"])
    for user in customers.users:
        command = GrantCredits(
            grant_id=new_id(), user_id=user.user_id, amount_credits=CREDITS, reason="goodwill", actor="faults"
        )
        if await grant(settings, command) != 0:
            raise RuntimeError("no credits were granted")


async def _misbehave(platform: PlatformDescription, seed: int) -> None:
    async with httpx.AsyncClient(base_url=platform.urls["runpod"], trust_env=False) as http:
        for number, rule in enumerate(MISBEHAVIOUR):
            (await http.post("/admin/rules", json={**rule, "seed": seed + number})).raise_for_status()


async def _tell(customers: Customers, befalling: Disasters, disasters: int) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(TELL_EVERY_SECONDS)
        said = f"{befalling.happened.total()} of {disasters} disasters, {len(customers.wishes)} orders"
        say(f"{time.monotonic() - began:5.0f} s: {said}")


async def _judge(
    platform: PlatformDescription,
    customers: Customers,
    fleet: Fleet,
    befalling: Disasters,
    ordering: "asyncio.Task[None]",
) -> int:
    say("the last disaster is over; waiting until everything is right ...")
    began, truth = time.monotonic(), Truth(platform, customers, fleet)
    async with httpx.AsyncClient(base_url=platform.urls["runpod"], trust_env=False) as http:
        (await http.delete("/admin/rules")).raise_for_status()
    await ordering

    async def remaining() -> list[str]:
        unfinished = await truth.open_orders()
        return [f"{unfinished} orders have not ended"] if unfinished else await truth.wrong()

    wrong = await remaining()
    while wrong and time.monotonic() - began < HEALED_WITHIN_SECONDS:
        await asyncio.sleep(0.5)
        wrong = await remaining()
    healed_seconds = time.monotonic() - began
    answered = [wish for wish in customers.wishes if wish.generation_id is not None]
    for wish in random.Random(0).sample(answered, min(100, len(answered))):
        if await customers.again(wish) != wish.generation_id:
            wrong.append(f"key {wish.key} is answered with another order when it is repeated")
    await customers.close()
    say(table(("disaster", "victim", "times"), _rows(befalling)))
    ends = ", ".join(f"{count} {end}" for end, count in sorted(truth.ends.items()))
    say(f"{len(customers.wishes)} orders: {ends}; {fleet.jobs} jobs were worked on")
    for death in befalling.died_alone:
        say(f"died of its own: {death}")
    say("\n".join(wrong) if wrong else f"everything was right {healed_seconds:.1f} s after the last disaster")
    return max(await check_books(platform), 1 if wrong or befalling.died_alone else 0)


def _rows(befalling: Disasters) -> list[tuple[str, str, str]]:
    return [(act, victim, str(times)) for (act, victim), times in sorted(befalling.happened.items())]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--disasters", type=int, default=200, help="how many in all (default: 200)")
    parser.add_argument("--per-second", type=float, default=0.7, help="disasters per second on average (default: 0.7)")
    parser.add_argument("--orders-per-second", type=float, default=3.0, help="(default: 3)")
    parser.add_argument("--seed", type=int, default=20261123)
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.disasters, options.per_second, options.orders_per_second, options.seed)))
