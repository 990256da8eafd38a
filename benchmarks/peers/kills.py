"""What is lost and what is paid twice when processes are killed: the same kills for every system."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from uuid import UUID, uuid4

import aiohttp
import asyncpg

from benchmarks.instant_worker import SIDE_PIXELS
from local_platform.description import IdentityDescription
from local_platform.identity import sign_token
from tests.support.waiting import eventually

ORDERS: Final = 200
PER_SECOND: Final = 10.0
KILLS: Final = 10
SETTLE_SECONDS: Final = 60.0
_PATIENCE_SECONDS: Final = 60.0

OUR_ORDERS: Final = """
    SELECT count(*), count(*) FILTER (WHERE status = 'completed') FROM gateway.generations WHERE user_id = ANY ($1)
"""
PEER_ORDERS: Final = """
    SELECT count(*), count(*) FILTER (WHERE status = 'completed') FROM generations WHERE user_id = ANY ($1)
"""


@dataclass(frozen=True, slots=True)
class Survived:
    """After the kills: requests of users, orders that they were debited for, and those that were delivered."""

    requests: int
    orders: int
    delivered: int

    @property
    def lost(self) -> int:
        """Orders that were debited and not delivered, a minute later."""
        return self.orders - self.delivered

    @property
    def doubled(self) -> int:
        """Orders beyond the one that each request was."""
        return self.orders - self.requests


async def survive(
    url: str,
    identity: IdentityDescription,
    users: Sequence[UUID],
    dsn: str,
    counting: str,
    kills: Sequence[Callable[[], Awaitable[None]]],
) -> Survived:
    """Order at an even rate while ``kills`` are called in turn, and wait for what comes of it.

    ``users`` have ordered nothing before. A request that is not answered is repeated under its key, as a frontend does.
    """
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(url, timeout=timeout) as http, asyncio.TaskGroup() as group:
        killing = group.create_task(_kill(kills))
        began = time.monotonic()
        for number in range(ORDERS):
            await asyncio.sleep(max(0.0, began + number / PER_SECOND - time.monotonic()))
            group.create_task(_order(http, sign_token(identity, users[number % len(users)], "pro")))
        await killing
    return await _settled(dsn, counting, users)


async def _kill(kills: Sequence[Callable[[], Awaitable[None]]]) -> None:
    for number in range(KILLS):
        await asyncio.sleep(ORDERS / PER_SECOND / (KILLS + 1))
        await kills[number % len(kills)]()


async def _order(http: aiohttp.ClientSession, token: str) -> None:
    """Repeat it until it is answered."""
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid4())}
    parameters = {"prompt": "a picture", "width": SIDE_PIXELS, "height": SIDE_PIXELS}
    body = {"model_id": "flux-schnell", "parameters": parameters}
    await eventually(lambda: _is_answered(http, headers, body), _PATIENCE_SECONDS, "an answer")


async def _is_answered(http: aiohttp.ClientSession, headers: dict[str, str], body: object) -> bool:
    try:
        async with http.post("/v1/generations", json=body, headers=headers) as answer:
            await answer.read()
    except (aiohttp.ClientError, TimeoutError):
        return False
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return False
    answer.raise_for_status()
    return True


async def _settled(dsn: str, counting: str, users: Sequence[UUID]) -> Survived:
    connection = await asyncpg.connect(dsn)
    try:
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            orders, delivered = await connection.fetchrow(counting, users)
            if orders == delivered or time.monotonic() > deadline:
                return Survived(ORDERS, orders, delivered)
            await asyncio.sleep(0.5)
    finally:
        await connection.close()
