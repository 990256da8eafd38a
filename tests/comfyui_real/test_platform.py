"""Orders through the public API to a real sampler and back: clips, previews, cancels, kills."""

import asyncio
import base64
import contextlib
import io
import os
import random
import signal
from pathlib import Path

import httpx
import pytest
from PIL import Image

from local_platform.media import probe
from tests.comfyui_real.conftest import TINY_MODELS, RealPlatformHarness
from tests.support.waiting import eventually

ORDERS = int(os.environ.get("ORDERS", "50"))
"""Of the campaign with kills."""

pytestmark = pytest.mark.timeout(3600)


async def upload_picture(real: RealPlatformHarness) -> str:
    encoded = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(encoded, "PNG")
    content = encoded.getvalue()
    asked = {"content_type": "image/png", "size_bytes": len(content)}
    upload = await real.user.post("/v1/uploads", asked, "picture")
    async with httpx.AsyncClient(trust_env=False) as browser:
        (await browser.put(upload["url"], headers=upload["headers"], content=content)).raise_for_status()
    return str(upload["id"])


async def test_every_tiny_model_is_ordered_followed_delivered_and_charged(
    real: RealPlatformHarness, tmp_path: Path
) -> None:
    before, _ = await real.balance()
    spent = 0
    for model_id in TINY_MODELS:
        parameters = {"image": await upload_picture(real)} if model_id.endswith("i2v") else {}
        generation_id = await real.order(model_id, **parameters)
        progress = [event.data async for event in real.follow(generation_id) if event.type == "generation.progress"]
        generation = await real.ended(generation_id)
        assert generation["status"] == "completed"
        file = tmp_path / f"{model_id}.{'mp4' if generation['kind'] == 'video' else 'png'}"
        file.write_bytes(await real.download(generation_id))
        found = probe(file)
        assert (found.width_pixels, found.height_pixels) == (256, 256)
        assert found.codec == ("h264" if generation["kind"] == "video" else "png")
        percents = [one["percent"] for one in progress]
        assert percents == sorted(percents)
        assert all(one["node"] for one in progress[1:-1])
        if model_id.startswith("wan"):
            # Long enough for a report of each second to see the sampler.
            assert found.frames == 17
            assert any(one["steps"] == 4 for one in progress)
            previews = [base64.b64decode(one["preview"]) for one in progress if one["preview"]]
            with Image.open(io.BytesIO(previews[-1])) as picture:
                assert (picture.format, max(picture.size)) == ("JPEG", 320)
        spent += generation["price_credits"]
    assert await settled(real) == (before - spent, 0)
    assert real.files() == []
    assert "only its owner sees" not in real.worker_log()


async def settled(real: RealPlatformHarness) -> tuple[int, int]:
    """The balance when nothing is reserved any more."""

    async def nothing_reserved() -> bool:
        return (await real.balance())[1] == 0

    await eventually(nothing_reserved, 60, "the last reservation's end")
    return await real.balance()


@pytest.mark.parametrize("node", ["High noise steps", "Decode"])
async def test_cancelled_work_is_stopped_and_not_charged(real: RealPlatformHarness, node: str) -> None:
    before = await real.balance()
    generation_id = await real.order(steps=40 if node != "Decode" else 4)
    async for event in real.follow(generation_id):
        if event.data.get("node") == node:
            await real.cancel(generation_id)
            break
    generation = await real.ended(generation_id)
    assert generation["status"] == "cancelled"
    assert await settled(real) == before
    await eventually(lambda: real.files() == [], 30, "an empty disk")
    following = await real.ended(await real.order())
    assert following["status"] == "completed"


async def test_comfyui_killed_at_random_costs_nobody_a_clip_or_a_credit(real: RealPlatformHarness) -> None:
    seed = int(os.environ.get("SEED", "7"))
    chance = random.Random(seed)
    before, _ = await real.balance()
    ordered = [await real.order(duration_seconds=1) for _ in range(ORDERS)]
    kills = 0

    async def kill_now_and_then() -> None:
        nonlocal kills
        while True:
            await asyncio.sleep(chance.uniform(20, 100))
            if (pid := real.comfyui_pid()) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills += 1

    killing = asyncio.create_task(kill_now_and_then())
    try:
        async with asyncio.timeout(3000):
            ended = [await real.ended(generation_id) for generation_id in ordered]
    finally:
        killing.cancel()
    outcomes = [generation["status"] for generation in ended]
    print(f"seed {seed}: {kills} kills, {outcomes.count('completed')} of {ORDERS} completed, {set(outcomes)}")
    files = [await real.download(one["id"]) for one in ended if one["status"] == "completed"]
    assert all(len(file) > 1000 and file[4:8] == b"ftyp" for file in files)
    assert set(outcomes) <= {"completed", "failed"}
    price = ended[0]["price_credits"]
    assert await settled(real) == (before - price * outcomes.count("completed"), 0)
    real.command("auditor", "check", "--settled")
    await eventually(lambda: real.files() == [], 60, "an empty disk")
    assert kills > 0
