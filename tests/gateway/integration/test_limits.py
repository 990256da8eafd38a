"""What a user may do in a day, over all replicas, and what counting it waits for."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text

from gateway import repository
from gateway.records import TakenWrite
from messaging.ids import new_id
from tests.gateway.harness import Client, GatewayHarness
from tests.support.databases import Database

pytestmark = pytest.mark.timeout(90)

LARGEST = 20 * 1024 * 1024
LIMIT = 2 * LARGEST + 10


async def upload(user: Client, size_bytes: int = LARGEST) -> Any:
    return await user.post("/v1/uploads", {"content_type": "image/png", "size_bytes": size_bytes})


async def test_uploads_are_limited_in_bytes_and_to_users_who_ever_had_credits(harness: GatewayHarness) -> None:
    changed: dict[str, Any] = {"max_upload_bytes_per_day": LIMIT, "uploads_need_credits": True}
    replicas = [await harness.gateway(**changed) for _ in range(2)]
    user_id = new_id()
    users = [harness.user(replicas[number % 2], user_id) for number in range(8)]
    refused = await upload(users[0], 5)
    assert (refused.status_code, refused.json()["code"]) == (402, "uploads_need_credits")
    assert await harness.rows("SELECT 1 FROM gateway.uploads") == []

    await harness.billing()
    await harness.grant(user_id, 1)
    answers = await asyncio.gather(*(upload(user) for user in users))
    assert Counter(answer.status_code for answer in answers) == {201: 2, 429: 6}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 429} == {"too_many_uploads"}
    small = await upload(users[0], 10)
    assert small.status_code == 201, "what still fits is taken"
    assert '"upload-bytes";r=0;t=3600' in small.headers["RateLimit"]
    assert f'"upload-bytes";q={LIMIT};qu="content-bytes";w=86400' in small.headers["RateLimit-Policy"]
    await harness.rows("UPDATE gateway.uploads SET created_at = created_at - interval '1 day'")
    assert (await upload(users[0])).status_code == 201


async def test_a_write_is_counted_without_waiting_for_the_disk_and_an_order_waits(
    make_database: Callable[..., Awaitable[Database]],
) -> None:
    engine, user_id = (await make_database("gateway")).engine("gateway"), new_id()
    wanted = text("SHOW synchronous_commit")
    async with engine.begin() as connection:
        assert await repository.take_write(connection, user_id, 60) == 59
        assert await connection.scalar(wanted) == "off"
    async with engine.begin() as connection:
        taken = await repository.find_request_or_take_write(connection, user_id, "key", 60, 1)
        assert isinstance(taken, TakenWrite)
        assert taken.tokens == pytest.approx(58, abs=0.5)
        assert await connection.scalar(wanted) == "on"
