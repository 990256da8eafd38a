"""Files go past the gateway: it only signs addresses, short-lived and for exactly one thing."""

import asyncio
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import nats
import pytest
from prometheus_client import REGISTRY

from contracts.storage import AssetStored
from local_platform.servers import S3Server
from tests.gateway.harness import CLIP, Client, GatewayHarness, asset_of, completion_of, now, previews_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)


async def test_a_completed_generation_has_links_for_ten_minutes_at_most(
    harness: GatewayHarness, s3_server: S3Server
) -> None:
    harness.s3 = s3_server
    gateway = await harness.gateway(verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    generation_id = UUID((await user.order(CLIP)).json()["id"])
    path = f"/v1/generations/{generation_id}"
    asset = asset_of(generation_id, user.user_id)
    for key, body in ((asset.object_key, b"mp4"), (asset.poster_object_key, b"jpg")):
        s3_server.client("admin").put_object(Bucket="library", Key=key, Body=body)
    done = completion_of(asset, capture_credits=0, late=True)
    previews = previews_of(asset)
    await harness.publish("storage", asset, about=generation_id)

    async def in_timeline() -> bool:
        timeline = (await user.get(f"{path}/timeline")).json()["items"]
        return any(entry["name"] == "asset_stored" for entry in timeline)

    await eventually(in_timeline, what="the stored file")
    assert (await user.get(path)).json()["download"] is None, "not before it is completed"
    await harness.publish("generation", done, about=generation_id)

    async def completed() -> dict[str, Any] | None:
        shown: dict[str, Any] = (await user.get(path)).json()
        return shown if shown["status"] == "completed" else None

    shown = await eventually(completed, what="the completion")
    assert shown["late"] is True
    download = shown["download"]
    assert (download["thumbnails"], download["animated_preview"]) == ([], None)
    await harness.publish("storage", previews, about=generation_id)

    async def with_thumbnails() -> dict[str, Any] | None:
        found: dict[str, Any] = (await user.get(path)).json()["download"]
        return found if found["thumbnails"] else None

    download = await eventually(with_thumbnails, what="the previews")
    timeline = (await user.get(f"{path}/timeline")).json()["items"]
    assert timeline[-1]["name"] == "previews_stored"
    (thumbnail,), moving = download["thumbnails"], download["animated_preview"]
    for preview, size_bytes, key in (
        (thumbnail, 9, previews.thumbnails[0].object_key),
        (moving, 6, f"{asset.object_key.rpartition('/')[0]}/animated-{asset.sha256[:16]}.webp"),
    ):
        url = preview.pop("url")
        assert urlsplit(url).path == f"/library/{key}"
        assert int(parse_qs(urlsplit(url).query)["X-Amz-Expires"][0]) <= 600
        assert preview == {
            "content_type": "image/webp",
            "width_pixels": 256,
            "height_pixels": 148,
            "size_bytes": size_bytes,
        }
    assert (download["content_type"], download["width_pixels"], download["size_bytes"]) == ("video/mp4", 832, 3)
    for url, body in ((download["url"], b"mp4"), (download["poster_url"], b"jpg")):
        query = parse_qs(urlsplit(url).query)
        assert int(query["X-Amz-Expires"][0]) <= 600
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(url)).content == body
            assert (await http.put(url, content=b"x")).status_code == 403
            assert (await http.get(url.replace(str(generation_id), str(user.user_id)))).status_code == 403
    async with httpx.AsyncClient(trust_env=False) as http:
        saved = await http.get(download["save_url"])
        assert saved.content == b"mp4"
        assert saved.headers["Content-Disposition"] == f'attachment; filename="{download["file_name"]}"'
        assert "Content-Disposition" not in (await http.get(download["url"])).headers
        renamed = download["save_url"].replace(download["file_name"], "other.exe")
        assert (await http.get(renamed)).status_code == 403, "the name is signed"
    assert datetime.fromisoformat(download["expires_at"]) <= now() + timedelta(seconds=600)


async def test_an_upload_takes_exactly_the_announced_size_and_type_once(
    harness: GatewayHarness, s3_server: S3Server
) -> None:
    harness.s3 = s3_server
    gateway = await harness.gateway(verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    upload = (await user.post("/v1/uploads", {"content_type": "image/png", "size_bytes": 5})).json()
    url, headers = upload["url"], upload["headers"]
    async with httpx.AsyncClient(trust_env=False) as http:
        refused = [
            await http.put(url, content=b"123456", headers=headers | {"Content-Length": "6"}),
            await http.put(url, content=b"1234", headers=headers | {"Content-Length": "4"}),
            await http.put(url, content=b"12345", headers=headers | {"Content-Type": "text/html"}),
            await http.put(url.replace(upload["id"], str(user.user_id)), content=b"12345", headers=headers),
            await http.get(url),
        ]
        assert [answer.status_code for answer in refused] == [403] * len(refused)
        assert (await http.put(url, content=b"12345", headers=headers)).status_code == 200
        again = await http.put(url, content=b"54321", headers=headers)
        assert again.status_code == 412, "a picture that was looked at cannot be exchanged"
    stored = s3_server.client("admin").get_object(Bucket="uploads", Key=f"{user.user_id}/{upload['id']}")
    assert (stored["Body"].read(), stored["ContentType"]) == (b"12345", "image/png")
    order = {"model_id": "wan-2.2-i2v", "parameters": {"prompt": "it moves", "image": upload["id"]}}
    assert (await user.order(order)).status_code == 202
    assert (await harness.user(gateway).order(order)).status_code == 422
    clip = await user.post("/v1/uploads", {"content_type": "video/mp4", "size_bytes": 5})
    assert (clip.status_code, clip.json()["headers"]["Content-Type"]) == (201, "video/mp4")
    enlarged = {"model_id": "film-interpolation", "parameters": {"clip": clip.json()["id"]}}
    assert (await user.order(enlarged)).status_code == 202
    for body in ({"content_type": "image/svg+xml", "size_bytes": 5}, {"content_type": "image/png", "size_bytes": 0}):
        assert (await user.post("/v1/uploads", body)).status_code == 422


async def test_the_daily_upload_limit_holds_for_simultaneous_requests(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(max_uploads_per_day=3)
    user, other = harness.user(gateway), harness.user(gateway)
    body = {"content_type": "image/png", "size_bytes": 5}
    answers = await asyncio.gather(*(user.post("/v1/uploads", body) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [429] * 7
    assert {answer.json()["code"] for answer in answers if answer.status_code == 429} == {"too_many_uploads"}
    assert (await other.post("/v1/uploads", body)).status_code == 201


async def test_a_completion_that_comes_right_after_its_file_is_not_deferred(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    before = deferred()
    for _ in range(5):
        lingering = await asset_beside_another(harness, user)
        await harness.publish("generation", completion_of(lingering, capture_credits=1), about=lingering.generation_id)
        await eventually(partial(has_status, user, lingering.generation_id, "completed"), what="the completion")
    assert deferred() == before


async def asset_beside_another(harness: GatewayHarness, user: Client) -> AssetStored:
    """A file that the gateway has been told of, and that waits for more because another one has just come."""
    first, second = [asset_of(UUID((await user.order(CLIP)).json()["id"]), user.user_id) for _ in range(2)]
    known = "SELECT 1 FROM gateway.generations WHERE generation_id = :id AND object_key IS NOT NULL"
    await harness.publish("storage", first, about=first.generation_id)
    await eventually(partial(harness.rows, known, id=first.generation_id), what="the first file")
    client = await nats.connect(harness.nats.url, user="admin", password=harness.nats.users["admin"])
    try:
        last = (await client.jetstream().stream_info("STORAGE")).state.last_seq

        async def stored() -> bool:
            return bool((await client.jetstream().stream_info("STORAGE")).state.last_seq > last)

        await harness.publish("storage", second, about=second.generation_id)
        await eventually(stored, what="the message of the second file")
    finally:
        await client.close()
    return second


async def has_status(user: Client, generation_id: UUID, status: str) -> bool:
    return bool((await user.get(f"/v1/generations/{generation_id}")).json()["status"] == status)


def deferred() -> float:
    return REGISTRY.get_sample_value("messaging_deferred_total", {"consumer": "gateway-generation"}) or 0.0
