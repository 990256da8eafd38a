"""Open-loop traffic that forgives nothing: one request that fails or one event that is missing is an error.

Users order pictures at an even rate, some in two variants, and look at each order, buy credits by card, and follow
their event stream, which they resume with ``Last-Event-ID`` whenever it ends. No request is repeated.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Final, Self
from uuid import UUID

import aiohttp
import asyncpg
from yarl import URL

from benchmarks.instant_worker import SIDE_PIXELS
from local_platform.description import PlatformDescription
from local_platform.identity import sign_token
from messaging.ids import new_id
from tests.faults.granting import grant_to_each

USERS: Final = 20
CREDITS: Final = 1_000_000
IN_VARIANTS_EVERY: Final = 20
"""One order of so many asks for two variants. The release that is upgraded must know them, too."""
PURCHASE_EVERY_SECONDS: Final = 2.0
REQUEST_SECONDS: Final = 30.0
_BUSY_TRIES: Final = 30
_RESUME_SECONDS: Final = 0.1
_UNFINISHED: Final = "status NOT IN ('completed', 'failed', 'cancelled', 'refused')"


class Traffic:
    """Enter it to have users with credits and open streams; ``run`` orders; ``settle`` waits until all is delivered."""

    def __init__(self, platform: PlatformDescription) -> None:
        self._platform = platform
        self.users = [new_id() for _ in range(USERS)]
        self._tokens = {user: sign_token(platform.identity, user, "pro") for user in self.users}
        self._following: list[asyncio.Task[None]] = []
        self._requests: list[asyncio.Task[None]] = []
        self.orders: list[UUID] = []
        """Each variant of an order is one of them."""
        self.purchases: list[UUID] = []
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest_ms = 0.0
        self.resumed = 0
        self.events: dict[UUID, list[int]] = {user: [] for user in self.users}

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS), connector=aiohttp.TCPConnector(limit=0)
        )
        await grant_to_each(self._platform, self.users, CREDITS)
        self._following = [asyncio.create_task(self._follow(user)) for user in self.users]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (*self._following, *self._requests):
            task.cancel()
        await asyncio.gather(*self._following, *self._requests, return_exceptions=True)
        await self._http.close()

    async def run(self, per_second: float, over: asyncio.Event) -> None:
        """Order at an even rate until ``over``, whether or not earlier orders were answered; wait for the answers."""
        purchases = asyncio.create_task(self._purchase_until(over))
        began = time.monotonic()
        number = 0
        while not over.is_set():
            self._requests.append(asyncio.create_task(self._place_order(number)))
            number += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), max(0.0, began + number / per_second - time.monotonic()))
        await asyncio.gather(purchases, *self._requests)

    async def settle(self, seconds: float) -> list[str]:
        """Wait until every order is delivered, every purchase credited and every event received; says what is not."""
        deadline = time.monotonic() + seconds
        while True:
            missing = await self._missing()
            if not missing or time.monotonic() > deadline:
                return missing
            await asyncio.sleep(0.2)

    async def longest_wait_seconds(self) -> float:
        """The longest time that one order took from its request to its completion."""
        async with self._database() as connection:
            return float(
                await connection.fetchval(
                    "SELECT extract(epoch FROM max(g.finished_at - r.created_at)) FROM gateway.generation_requests AS r"
                    " JOIN generation.video_generations AS g USING (generation_id)"
                )
                or 0.0
            )

    def event_count(self) -> int:
        """How many events all streams received together."""
        return sum(len(received) for received in self.events.values())

    async def _place_order(self, number: int) -> None:
        user = self.users[number % USERS]
        parameters = {"prompt": f"picture {number}", "width": SIDE_PIXELS, "height": SIDE_PIXELS}
        body: dict[str, Any] = {"model_id": "flux-schnell", "parameters": parameters}
        if number % IN_VARIANTS_EVERY == IN_VARIANTS_EVERY - 1:
            body["count"] = 2
        order = await self._request("POST", "/v1/generations", user, (HTTPStatus.CREATED, HTTPStatus.ACCEPTED), body)
        if order is not None:
            self.orders += [UUID(one["id"]) for one in order["variants"] or (order,)]
            await self._request("GET", f"/v1/generations/{order['id']}", user, (HTTPStatus.OK,))

    async def _purchase_until(self, over: asyncio.Event) -> None:
        while not over.is_set():
            await self._purchase(self.users[len(self.purchases) % USERS])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), PURCHASE_EVERY_SECONDS)

    async def _purchase(self, user: UUID) -> None:
        body = {"pack_id": "starter", "provider": "stripe"}
        payment = await self._request("POST", "/v1/payments", user, (HTTPStatus.CREATED, HTTPStatus.ACCEPTED), body)
        if payment is None:
            return
        self.purchases.append(UUID(payment["id"]))
        # Where the checkout page took longer than the request waits, the page is asked for again, as a frontend does.
        while payment is not None and payment["checkout_url"] is None:
            await asyncio.sleep(0.5)
            payment = await self._request("GET", f"/v1/payments/{payment['id']}", user, (HTTPStatus.OK,))
        if payment is not None:
            session = URL(payment["checkout_url"]).name
            url = f"{self._platform.urls['stripe']}/admin/acts/pay"
            # The emulator closes a connection that is kept; a request that meets this would be lost.
            async with self._http.post(url, json={"session": session}, headers={"Connection": "close"}) as answer:
                answer.raise_for_status()

    async def _request(
        self, method: str, path: str, user: UUID, expected: tuple[int, ...], body: dict[str, Any] | None = None
    ) -> dict[str, Any] | None:
        headers = {"Authorization": f"Bearer {self._tokens[user]}"}
        if method == "POST":
            headers["Idempotency-Key"] = str(new_id())
        began = time.monotonic()
        url = f"{self._platform.urls['gateway']}{path}"
        try:
            for _ in range(_BUSY_TRIES):
                async with self._http.request(method, url, json=body, headers=headers) as answer:
                    self.answers[f"{method} {answer.status}"] += 1
                    if answer.status in expected:
                        decoded: dict[str, Any] = await answer.json()
                        return decoded
                    reason = f"{method} {path}: {answer.status} {(await answer.text())[:200]}"
                    if answer.status != HTTPStatus.TOO_MANY_REQUESTS:
                        break
                # Nothing was written: the same is sent again, under its key, as every client does.
                await asyncio.sleep(float(answer.headers["Retry-After"]))
            self.failures.append(reason)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failures.append(f"{method} {path}: {type(error).__name__}: {error}")
        finally:
            self.slowest_ms = max(self.slowest_ms, (time.monotonic() - began) * 1000)
        return None

    async def _follow(self, user: UUID) -> None:
        received = self.events[user]
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60.0)
        while True:
            last_event_id = str(received[-1]) if received else "0"
            headers = {"Authorization": f"Bearer {self._tokens[user]}", "Last-Event-ID": last_event_id}
            url = f"{self._platform.urls['gateway']}/v1/events"
            try:
                async with self._http.get(url, headers=headers, timeout=timeout) as answer:
                    if answer.status != HTTPStatus.OK:
                        self.failures.append(f"GET /v1/events: {answer.status}")
                    else:
                        await self._read_events(answer, received)
            except (aiohttp.ClientError, TimeoutError) as error:
                self.failures.append(f"GET /v1/events: {type(error).__name__}: {error}")
            self.resumed += 1
            await asyncio.sleep(_RESUME_SECONDS)

    async def _read_events(self, answer: aiohttp.ClientResponse, received: list[int]) -> None:
        """Add the number of each event that has one, in the order of its arrival."""
        fields: dict[str, str] = {}
        async for line in answer.content:
            if text := line.decode().rstrip("\n"):
                name, _, value = text.partition(": ")
                fields[name] = value
            else:
                if "id" in fields and "event" in fields:
                    received.append(int(fields["id"]))
                fields = {}

    async def _missing(self) -> list[str]:
        async with self._database() as connection:
            unfinished = await connection.fetchval(f"SELECT count(*) FROM gateway.generations WHERE {_UNFINISHED}")
            delivered = await connection.fetchval("SELECT count(*) FROM gateway.generations WHERE status = 'completed'")
            credited = await connection.fetchval("SELECT count(*) FROM gateway.payments WHERE status = 'settled'")
            history = await connection.fetch("SELECT user_id, sequence FROM gateway.activity ORDER BY sequence")
            existing = {row[0] for row in await connection.fetch("SELECT generation_id FROM gateway.generations")}
            letters = [
                f"{service} has {count} dead letters"
                for service in ("gateway", "billing", "generation", "storage", "payments", "auditor")
                if (count := await connection.fetchval(f"SELECT count(*) FROM {service}.dead_letters"))
            ]
        expected: dict[UUID, list[int]] = {user: [] for user in self.users}
        for row in history:
            expected[row["user_id"]].append(row["sequence"])
        found = [f"{unfinished} orders have not ended"] if unfinished else []
        if delivered != len(self.orders):
            found.append(f"{len(self.orders)} orders were accepted and {delivered} delivered")
        if lost := set(self.orders) - existing:
            found.append(f"accepted and unknown: {lost}")
        if credited != len(self.purchases):
            found.append(f"{len(self.purchases)} purchases began and {credited} are settled")
        for user in self.users:
            if self.events[user] != expected[user]:
                lacking = sorted(set(expected[user]) - set(self.events[user]))
                found.append(
                    f"user {user} has {len(expected[user])} events and received {len(self.events[user])};"
                    f" {len(lacking)} are missing: {lacking[:5]}"
                )
        return found + letters

    @contextlib.asynccontextmanager
    async def _database(self) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(self._platform.postgres.superuser_dsn)
        try:
            yield connection
        finally:
            await connection.close()
