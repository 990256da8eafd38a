"""Orders on a whole platform whose every part is killed, frozen, cut off and rolled back, at random.

    python -m tests.faults.generations [--disasters 200] [--per-second 0.7] [--orders-per-second 3] [--seed 20261123]

Customers order pictures, some in three variants, cancel some of them and delete others, as a patient frontend does: a
request without an answer is repeated under its key. Meanwhile services, PostgreSQL, NATS and the object store are
killed with -9, services are frozen past their leases, and the broker's store is wiped or replaced by an older copy.
Connections of services fall silent or are cut off for a while, streams are purged, disks of NATS and PostgreSQL are
full, services run with a wrong clock.
RunPod (the emulator) loses, repeats and delays its webhooks, loses jobs, refuses and fails. One seed is one schedule.
Full disks need root, wrong clocks Debian's package faketime: without them the campaign says so and goes without.

All services run with the timers that are shipped. Within a minute after the last disaster, without any help, everything
must be right: every order has ended, is charged once if it was delivered and not at all if it was not, and has its own
file in the library or, if it was deleted, none; there is no dead letter, and every invariant of the auditor holds.
Exit code 0 only then.
"""

import argparse
import asyncio
import contextlib
import io
import json
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import boto3
import httpx
from botocore.config import Config
from PIL import Image

from contracts.message import SERVICES
from local_platform.api_client import ApiClient, UnexpectedAnswerError
from local_platform.console import say, table
from local_platform.description import PlatformDescription
from local_platform.process_table import ENDPOINT_ID
from local_platform.supervisor import PlatformOptions
from messaging.ids import new_id
from tests.faults.books import check_books
from tests.faults.disasters import DisasterRunner, Faults, fault_rows, kinds, schedule
from tests.faults.fragile_platform import FragilePlatform
from tests.faults.granting import grant_to_each
from tests.generation.worker import Worker, working
from tests.support.media import picture

USERS: Final = 12
CREDITS: Final = 1_000_000
SIDE_PIXELS: Final = 256
PICTURES: Final = 40
SMALL_PICTURES: Final = (".jpg", ".webp")
"""How the names of posters and previews end."""
CANCELLED: Final = 0.12
"""Share of the orders that their customers cancel."""
IN_A_HURRY: Final = 0.1
"""Share of the orders that a worker has to begin within a few seconds."""
IN_VARIANTS: Final = 0.1
"""Share of the orders that ask for three variants."""
DELETED: Final = 0.15
"""Share of the orders that their customers delete as soon as they have ended."""
MANY_CANCELS: Final = {"gateway": {"GATEWAY_RUNNING_CANCELS_PER_DAY": '{"free": 9999, "standard": 9999, "pro": 9999}'}}
"""A few customers stand for many."""
HEAL_SECONDS: Final = 90.0
"""Twice the longest regular wait, for a sign of a job whose submission had no answer (docs/decisions/0021).

After it the order is queued again, made, and by some of its customers deleted."""
TOLD_EVERY_SECONDS: Final = 5.0
"""How often it is said what is not right yet."""
ON_ITS_WAY_SECONDS: Final = 5.0
"""A younger message may be unpublished: previews are made, and announced, long after the last order has ended."""
UPLOAD_TRIES: Final = 4
REPORT_SECONDS: Final = 15.0

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

OPEN_ORDERS: Final = """
    SELECT o.status AS shown, g.status, a.status AS attempt, count(*) AS orders
    FROM gateway.generations AS o
    LEFT JOIN generation.video_generations AS g USING (generation_id)
    LEFT JOIN LATERAL (
        SELECT status FROM generation.attempts AS a
        WHERE a.generation_id = o.generation_id ORDER BY attempt_number DESC LIMIT 1
    ) AS a ON true
    WHERE o.status NOT IN ('completed', 'failed', 'cancelled', 'refused')
    GROUP BY 1, 2, 3
"""

ORDERS: Final = """
    SELECT o.generation_id, o.user_id, o.status, o.price_credits, o.late, o.captured_credits AS shown_credits,
           g.status AS status_there, g.late AS late_there, r.status AS reservation, r.captured_credits,
           f.code AS refusal,
           (SELECT count(*) FROM billing.reservations AS x WHERE x.generation_id = o.generation_id) AS reservations,
           a.object_key, a.sha256, q.idempotency_key, o.deleted_at
    FROM gateway.generations AS o
    JOIN gateway.generation_requests AS q USING (generation_id)
    LEFT JOIN generation.video_generations AS g USING (generation_id)
    LEFT JOIN billing.reservations AS r USING (generation_id)
    LEFT JOIN billing.refusals AS f USING (generation_id)
    LEFT JOIN storage.assets AS a ON a.generation_id = o.generation_id AND a.role = 'output'
"""

BALANCES: Final = """
    SELECT u.user_id, u.available_credits, u.reserved_credits, b.available_credits AS shown_available,
           b.reserved_credits AS shown_reserved
    FROM billing.users AS u LEFT JOIN gateway.balances AS b USING (user_id)
"""


@dataclass
class CustomerOrder:
    """One order as its customer knows it: ``generation_id`` is None until it is accepted, ``answer`` the last error."""

    user: int
    key: str
    body: dict[str, Any]
    generation_id: str | None = None
    answer: str | None = None


class Customers:
    """Users with credits who order at an even rate until they are stopped.

    They delete the share ``deleted`` of what they ordered.
    """

    def __init__(self, platform: PlatformDescription, source: random.Random, deleted: float = DELETED) -> None:
        self._source = source
        self._deleted = deleted
        self.users = [ApiClient(platform, new_id(), "pro") for _ in range(USERS)]
        self.orders: list[CustomerOrder] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def place_orders(self, per_second: float, over: asyncio.Event) -> None:
        """Order until ``over``, then wait for the answers that are missing, for ``HEAL_SECONDS`` at most."""
        began, before = time.monotonic(), len(self.orders)
        while not over.is_set():
            user, number = self._source.randrange(USERS), len(self.orders)
            parameters = {"prompt": f"picture {number}", "width": SIDE_PIXELS, "height": SIDE_PIXELS}
            body: dict[str, Any] = {"model_id": "flux-schnell", "parameters": parameters}
            if self._source.random() < IN_A_HURRY:
                body["start_within_seconds"] = self._source.randint(1, 5)
            if self._source.random() < IN_VARIANTS:
                body["count"] = 3
            order = CustomerOrder(user, str(new_id()), body)
            self.orders.append(order)
            cancel_after_seconds = self._source.uniform(0.0, 3.0) if self._source.random() < CANCELLED else None
            deletes = self._source.random() < self._deleted
            self._tasks.append(asyncio.create_task(self._live_through(order, cancel_after_seconds, deletes)))
            with contextlib.suppress(TimeoutError):
                due = began + (len(self.orders) - before) / per_second
                await asyncio.wait_for(over.wait(), max(0.0, due - time.monotonic()))
        answered, unanswered = await asyncio.wait(self._tasks, timeout=HEAL_SECONDS)
        for task in unanswered:
            task.cancel()
        for task in answered:
            task.result()

    async def repeat(self, order: CustomerOrder) -> str:
        """Repeat an order under its key. Returns the id of the answer."""
        answer = await self.users[order.user].post("/v1/generations", order.body, order.key, expect=200)
        return str(answer["id"])

    async def _live_through(self, order: CustomerOrder, cancel_after_seconds: float | None, deletes: bool) -> None:
        user = self.users[order.user]
        await self._place(user, order)
        if cancel_after_seconds is not None:
            await asyncio.sleep(cancel_after_seconds)
            # The order may have ended by now: then the refusal of the cancel is right.
            with contextlib.suppress(UnexpectedAnswerError):
                path = f"/v1/generations/{order.generation_id}/cancel?variants=all"
                await user.post(path, {}, str(new_id()), expect=202)
        while deletes:
            await asyncio.sleep(3.0)
            # It has not ended yet, or the gateway was away for long: a patient user asks again.
            with contextlib.suppress(UnexpectedAnswerError):
                await user.delete(f"/v1/generations/{order.generation_id}")
                return

    async def _place(self, user: ApiClient, order: CustomerOrder) -> None:
        while order.generation_id is None:
            try:
                repeated = order.answer is not None
                answer = await user.post("/v1/generations", order.body, order.key, repeated=repeated)
            except UnexpectedAnswerError as error:
                # The gateway was away for long, or limited the repetitions: a patient user goes on.
                order.answer = str(error)
                await asyncio.sleep(1.0)
            else:
                order.generation_id = answer["id"]

    async def close(self) -> None:
        """Close every connection."""
        for user in self.users:
            await user.__aexit__()


class Fleet:
    """The script of the GPUs: another picture for each job, and a record of which order got which.

    A picture is known by its pixels: the mark that AI made it changes the file.
    """

    def __init__(self, source: random.Random) -> None:
        self._source = source
        contents = [picture(SIDE_PIXELS, SIDE_PIXELS, seed) for seed in range(PICTURES)]
        self._pictures = [(content, pixels_of(content)) for content in contents]
        self.uploaded: defaultdict[str, set[bytes]] = defaultdict(set)
        self.jobs = 0

    async def work(self, worker: Worker, job: dict[str, Any]) -> dict[str, Any] | None:
        """The script of the worker."""
        content, pixels = self._pictures[self.jobs % PICTURES]
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
                self.uploaded[generation_id].add(pixels)
                return {"output": output}
        return {"error": json.dumps({"code": "upload_failed", "detail": "the bucket is away", "user_fault": False})}


class Inspection:
    """Compares databases and library, seen from outside, with what the customers were told."""

    def __init__(self, platform: PlatformDescription, customers: Customers, fleet: Fleet) -> None:
        self._platform = platform
        self._customers = customers
        self._fleet = fleet
        self.outcomes: Counter[str] = Counter()
        self.deleted: set[str] = set()

    async def open_orders(self) -> list[str]:
        """The orders that have not ended, as the gateway shows them, by where they are."""
        connection = await asyncpg.connect(self._platform.postgres.superuser_dsn)
        try:
            return [
                f"{row['orders']} orders have not ended: {row['shown']} in the gateway, {row['status']} in generation,"
                f" their last attempt is {row['attempt']}"
                for row in await connection.fetch(OPEN_ORDERS)
            ]
        finally:
            await connection.close()

    async def find_errors(self) -> list[str]:
        """Everything that is wrong with a platform at rest."""
        connection = await asyncpg.connect(self._platform.postgres.superuser_dsn)
        try:
            orders = {str(row["generation_id"]): row for row in await connection.fetch(ORDERS)}
            balances = {row["user_id"]: row for row in await connection.fetch(BALANCES)}
            unfinished = [await self._unfinished_messages(connection, service) for service in SERVICES]
        finally:
            await connection.close()
        objects = await asyncio.to_thread(self._library)
        found = [error for errors in unfinished for error in errors]
        self.outcomes = Counter(row["status"] + (" late" if row["late"] else "") for row in orders.values())
        self.deleted = {key for key, row in orders.items() if row["deleted_at"] is not None}
        self.outcomes["deleted"] = len(self.deleted)
        for row in orders.values():
            found += [f"{row['generation_id']}: {error}" for error in self._order_errors(row, objects)]
        found += self._customer_errors(orders)
        found += self._balance_errors(orders, balances)
        outputs = {row["object_key"] for row in orders.values() if row["object_key"] is not None}
        strangers = {key for key in objects.keys() - outputs if not key.endswith(SMALL_PICTURES)}
        found += [f"{key} lies in the library and belongs to no order" for key in strangers]
        return found

    def _order_errors(self, row: asyncpg.Record, objects: dict[str, bytes]) -> list[str]:
        found = []
        delivered = row["status"] == "completed"
        if row["status_there"] is not None and row["status"] != row["status_there"]:
            found.append(f"{row['status']} in the gateway, {row['status_there']} in generation")
        if row["late_there"] is not None and row["late"] != row["late_there"]:
            found.append("late in the gateway or in generation, but not in both")
        found += charge_errors(row)
        if delivered != (row["object_key"] is not None):
            found.append(f"{row['status']}, but its file is {row['object_key']}")
        if row["deleted_at"] is not None:
            folder = f"/{row['generation_id']}/"
            found += [f"it was deleted, and {key} is still there" for key in objects if folder in key]
        elif row["object_key"] is not None:
            content = objects.get(row["object_key"], b"")
            if sha256(content).hexdigest() != row["sha256"]:
                found.append("the library has another file than is recorded")
            elif pixels_of(content) not in self._fleet.uploaded[str(row["generation_id"])]:
                found.append("its file was made for another order")
        return found

    def _customer_errors(self, orders: dict[str, asyncpg.Record]) -> list[str]:
        found = []
        keys = Counter(row["idempotency_key"] for row in orders.values())
        for order in self._customers.orders:
            if order.generation_id is None:
                found.append(f"no answer to key {order.key}: {order.answer or 'not even an error'}")
            elif order.generation_id not in orders:
                found.append(f"{order.generation_id} was accepted and does not exist")
            elif keys[order.key] != 1:
                found.append(f"key {order.key} made {keys[order.key]} orders")
        return found

    def _balance_errors(self, orders: dict[str, asyncpg.Record], balances: dict[UUID, asyncpg.Record]) -> list[str]:
        found = []
        for user in self._customers.users:
            spent = sum(row["captured_credits"] or 0 for row in orders.values() if row["user_id"] == user.user_id)
            balance = tuple(balances[user.user_id])[1:]
            if balance != (CREDITS - spent, 0) * 2:
                found.append(f"user {user.user_id} spent {spent} and has {balance}")
        return found

    async def _unfinished_messages(self, connection: asyncpg.Connection, service: str) -> list[str]:
        letters = await connection.fetch(f"SELECT subject, reason, error FROM {service}.dead_letters")
        waiting = f"SELECT count(*) FROM {service}.outbox_messages WHERE published_at IS NULL"
        query = f"{waiting} AND created_at < now() - CAST($1 AS interval)"
        unpublished = await connection.fetchval(query, timedelta(seconds=ON_ITS_WAY_SECONDS))
        found = [f"{service} has a dead letter: {tuple(letter)}" for letter in letters]
        return found + ([f"{service} has {unpublished} messages to publish"] if unpublished else [])

    def _library(self) -> dict[str, bytes]:
        """Every object by its key, with its content if that is an output: posters and previews are only listed."""
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
        contents = {key: b"" for key in found if key.endswith(SMALL_PICTURES)}
        for key in found:
            if key in contents:
                continue
            # A deletion may be carried out meanwhile.
            with contextlib.suppress(client.exceptions.NoSuchKey):
                contents[key] = client.get_object(Bucket="library", Key=key)["Body"].read()
        return contents


def charge_errors(order: Mapping[str, Any]) -> list[str]:
    """What is wrong with the reservation and the charge of an order that has ended, a row of ``ORDERS``.

    Each order has one reservation. Only an order whose cancel overtook billing has none: billing refused it as
    cancelled, and generation never heard of it.
    """
    if (order["status"], order["refusal"]) == ("cancelled", "cancelled"):
        traces = [f"it was refused, and has {order['reservations']} reservations"] if order["reservations"] else []
        if order["status_there"] is not None:
            traces.append(f"it was refused, and is {order['status_there']} in generation")
        if order["shown_credits"]:
            traces.append(f"it was refused, and {order['shown_credits']} credits are shown")
        return traces
    found = []
    if order["refusal"] is not None:
        found.append(f"billing refused it: {order['refusal']}")
    if order["reservations"] != 1:
        found.append(f"{order['reservations']} reservations")
    due = order["price_credits"] if order["status"] == "completed" and not order["late"] else 0
    charged, shown = order["captured_credits"], order["shown_credits"]
    if (charged, shown or 0) != (due, due):
        found.append(f"{due} credits are due, {charged} were charged, {shown} shown")
    if order["reservation"] not in ("captured", "released"):
        found.append(f"its reservation is {order['reservation']}")
    return found


def pixels_of(content: bytes) -> bytes:
    """The checksum of a picture's pixels."""
    with Image.open(io.BytesIO(content)) as opened:
        return sha256(opened.convert("RGB").tobytes()).digest()


async def main(disasters: int, per_second: float, orders_per_second: float, seed: int) -> int:
    """Run the campaign and print its outcome. Returns the exit code."""
    options = PlatformOptions(name="faults-generations", workers=0, environment=MANY_CANCELS)
    supervisor = FragilePlatform(options)
    try:
        platform = await supervisor.start()
        customers, fleet = Customers(platform, random.Random(seed + 1)), Fleet(random.Random(seed + 2))
        api_key = platform.environments["generation"]["GENERATION_RUNPOD_API_KEY"]
        await grant_credits(platform, customers)
        await _misbehave(platform, seed)
        with tempfile.TemporaryDirectory(prefix="reelhouse-faults-") as copies:
            disaster_runner, over = DisasterRunner(supervisor, platform, Path(copies)), asyncio.Event()
            async with working(platform.urls["runpod"], ENDPOINT_ID, api_key) as worker:
                worker.work = fleet.work
                ordering = asyncio.create_task(customers.place_orders(orders_per_second, over))
                reporting = asyncio.create_task(_report_progress(customers, disaster_runner, disasters))
                try:
                    await disaster_runner.run(schedule(seed, disasters, per_second, kinds(supervisor)))
                finally:
                    over.set()
                    reporting.cancel()
                return await verify(platform, customers, fleet, disaster_runner, ordering)
    finally:
        await supervisor.stop()


async def grant_credits(platform: PlatformDescription, customers: Customers) -> None:
    """Give every customer credits, as an operator does."""
    await grant_to_each(platform, [user.user_id for user in customers.users], CREDITS)


async def _misbehave(platform: PlatformDescription, seed: int) -> None:
    async with httpx.AsyncClient(base_url=platform.urls["runpod"], trust_env=False) as http:
        for number, rule in enumerate(MISBEHAVIOUR):
            (await http.post("/admin/rules", json={**rule, "seed": seed + number})).raise_for_status()


async def _report_progress(customers: Customers, disaster_runner: DisasterRunner, disasters: int) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        progress = f"{disaster_runner.counts.total()} of {disasters} disasters, {len(customers.orders)} orders"
        say(f"{time.monotonic() - began:5.0f} s: {progress}")


async def verify(
    platform: PlatformDescription, customers: Customers, fleet: Fleet, faults: Faults, ordering: "asyncio.Task[None]"
) -> int:
    """Wait until everything is right, and print what was not. Returns the exit code."""
    say("the last disaster is over; waiting until everything is right ...")
    began, inspection = time.monotonic(), Inspection(platform, customers, fleet)
    async with httpx.AsyncClient(base_url=platform.urls["runpod"], trust_env=False) as http:
        (await http.delete("/admin/rules")).raise_for_status()
    await ordering

    async def find_errors() -> list[str]:
        return await inspection.open_orders() or await inspection.find_errors()

    errors, healed_seconds, told_at = await find_errors(), time.monotonic() - began, 0.0
    while errors and healed_seconds < HEAL_SECONDS:
        if healed_seconds - told_at >= TOLD_EVERY_SECONDS:
            told_at = healed_seconds
            say(f"{healed_seconds:5.0f} s: {errors[0]}{f', and {len(errors) - 1} more' if errors[1:] else ''}")
        await asyncio.sleep(0.5)
        errors, healed_seconds = await find_errors(), time.monotonic() - began
    # The key of an order that is deleted is answered with 410.
    accepted = [order for order in customers.orders if order.generation_id not in (None, *inspection.deleted)]
    for order in random.Random(0).sample(accepted, min(100, len(accepted))):
        if await customers.repeat(order) != order.generation_id:
            errors.append(f"key {order.key} is answered with another order when it is repeated")
    await customers.close()
    say(table(("disaster", "victim", "times"), fault_rows(faults)))
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(inspection.outcomes.items()))
    say(f"{len(customers.orders)} orders: {outcomes}; {fleet.jobs} jobs")
    for death in faults.unexpected_deaths:
        say(f"died without a disaster: {death}")
    say("\n".join(errors) if errors else f"everything was right {healed_seconds:.1f} s after the last disaster")
    return max(await check_books(platform), 1 if errors or faults.unexpected_deaths else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--disasters", type=int, default=200, help="how many in all (default: 200)")
    parser.add_argument("--per-second", type=float, default=0.7, help="disasters per second on average (default: 0.7)")
    parser.add_argument("--orders-per-second", type=float, default=3.0, help="(default: 3)")
    parser.add_argument("--seed", type=int, default=20261123)
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.disasters, options.per_second, options.orders_per_second, options.seed)))
