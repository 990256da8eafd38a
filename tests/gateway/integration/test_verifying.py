"""Anybody may ask whether a file was made here, and learns nothing else."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import msgspec
import pytest
import sqlalchemy as sa

from contracts.storage import DIGITAL_SOURCE_TYPE
from gateway.routes import verification
from tests.gateway.harness import CLIP, GatewayHarness, Replica, asset_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)

FILE = b"a delivered clip, with its mark"
SHA256 = hashlib.sha256(FILE).hexdigest()


async def ask(replica: Replica, file: bytes | AsyncIterator[bytes], media_type: str = "video/mp4") -> httpx.Response:
    return await replica.http.post("/v1/verify", content=file, headers={"Content-Type": media_type})


async def deliver(harness: GatewayHarness, replica: Replica, sha256: str) -> tuple[UUID, UUID]:
    """Have a file of a user delivered; the ids of the user and the generation."""
    user = harness.user(replica)
    generation_id = UUID((await user.order(CLIP)).json()["id"])
    asset = msgspec.structs.replace(asset_of(generation_id, user.user_id), sha256=sha256)
    await harness.publish("storage", asset, about=generation_id)

    async def known() -> bool:
        return bool(await harness.rows("SELECT 1 FROM gateway.generations WHERE sha256 = :sha", sha=sha256))

    await eventually(known, what="the stored file")
    return user.user_id, generation_id


async def test_a_delivered_file_is_ours_and_a_changed_copy_is_not(harness: GatewayHarness) -> None:
    replica = await harness.gateway(verdict_wait_seconds=0.05)
    before = (await ask(replica, FILE)).json()
    assert before["made_here"] is False
    user_id, generation_id = await deliver(harness, replica, SHA256)
    by_checksum = await replica.http.post("/v1/verify", json={"sha256": SHA256.upper()})
    by_file = await ask(replica, FILE)
    assert by_checksum.status_code == by_file.status_code == 200
    assert (
        by_checksum.json()
        == by_file.json()
        == {
            "made_here": True,
            "sha256": SHA256,
            "kind": "video",
            "digital_source_type": DIGITAL_SOURCE_TYPE,
            "explanation": "This file was made by AI, with Reelhouse, and is as it was delivered.",
        }
    )
    for secret in (user_id, generation_id):
        assert str(secret) not in by_file.text + str(by_file.headers)

    encoded_again = (await ask(replica, FILE + b", encoded again", "application/octet-stream")).json()
    assert (encoded_again["made_here"], encoded_again["kind"], encoded_again["digital_source_type"]) == (
        *(False, None, None),
    )
    assert "does not prove that it was made elsewhere" in encoded_again["explanation"]

    async with harness.admin.begin() as connection:
        await connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        plan = await connection.execute(sa.text("EXPLAIN SELECT kind FROM gateway.generations WHERE sha256 = 'x'"))
    assert "generations_by_sha256" in str(plan.all()), "strangers must not read the whole table"


async def test_what_is_asked_is_bounded_and_said_exactly(harness: GatewayHarness) -> None:
    replica = await harness.gateway(verified_file_max_bytes=2000)
    assert (await ask(replica, b"x" * 2000)).status_code == 200
    too_large = [
        await ask(replica, b"x" * 2001),
        await ask(replica, json.dumps("x" * 1500).encode(), "application/json"),
    ]
    assert [(one.status_code, one.json()["code"]) for one in too_large] == [(413, "body_too_large")] * 2
    wrong = {b"{": 400, b"{}": 422, b'{"sha256": "' + b"g" * 64 + b'"}': 422, b'{"sha256": "ab"}': 422, b"[]": 422}
    answers = {body: await ask(replica, body, "application/json") for body in wrong}
    assert {body: answer.status_code for body, answer in answers.items()} == wrong
    assert answers[b"{}"].json()["errors"][0]["field"] == "sha256"
    assert (await ask(replica, b"sha256=ab", "application/x-www-form-urlencoded")).status_code == 415


async def test_files_of_an_address_are_limited_and_checksums_less(harness: GatewayHarness) -> None:
    replica = await harness.gateway(verified_files_per_minute=2)
    answers = [await ask(replica, FILE) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert '"verified-files";q=2;w=60' in answers[2].headers["RateLimit-Policy"]
    assert (await replica.http.post("/v1/verify", json={"sha256": SHA256})).status_code == 200


async def test_slow_files_are_given_up_and_occupy_two_places_at_most(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = await harness.gateway()
    release = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"the beginning"
        await release.wait()
        yield b" and the end"

    waiting = [asyncio.create_task(ask(replica, slow())) for _ in range(2)]
    under_way = replica.gateway.dependencies.admission._files_under_way
    await eventually(lambda: under_way.total() == 2, what="two files under way")
    assert (await ask(replica, FILE)).status_code == 429
    release.set()
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
    assert not under_way

    monkeypatch.setattr(verification, "RECEIVE_SECONDS", 0.2)
    address = urlsplit(replica.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b"POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Type: video/mp4\r\nContent-Length: 99\r\n\r\nx")
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"body_too_slow"' in answer
    assert b"\r\nretry-after: 1\r\n" in answer.lower(), "every refusal that may pass says when to try again"
    assert not under_way
