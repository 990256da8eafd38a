"""Orders through the public API to a real sampler and back: clips, previews, cancels, kills."""

import asyncio
import base64
import contextlib
import io
import os
import random
import signal
from pathlib import Path

import av
import pytest
from PIL import Image

from catalogue import Model, load_catalogue
from local_platform.media import probe
from tests.comfyui_real.conftest import RealPlatformHarness
from tests.comfyui_real.tiny_comfyui import chosen_device
from tests.support.media import clip, picture
from tests.support.waiting import eventually

ORDERS = int(os.environ.get("ORDERS", "50"))
"""Of the campaign with kills."""
QUICK_MODELS = ("ltx-2.5-t2v", "ltx-2.5-t2v", "z-image-turbo", "flux-schnell", "wan-2.2-t2v")
"""Its orders: a second or two of sampling each, and ten in the last one."""
CAMPAIGN_SECONDS = 3000.0

pytestmark = pytest.mark.timeout(3600)


async def uploads(real: RealPlatformHarness, model: Model) -> dict[str, str]:
    """What an order of the model starts from."""
    return {
        name: await real.upload("video/mp4", clip(frames=16, rate=16))
        if name in model.clip_parameters
        else await real.upload("image/png", picture(256, 256))
        for name in model.upload_parameters
    }


async def test_every_model_is_ordered_followed_delivered_and_charged(real: RealPlatformHarness, tmp_path: Path) -> None:
    before, _ = await real.balance()
    spent = 0
    for model in load_catalogue().offered:
        generation_id = await real.order(model.id, **await uploads(real, model))
        progress = [event.data async for event in real.follow(generation_id) if event.type == "generation.progress"]
        generation = await real.ended(generation_id)
        assert generation["status"] == "completed", (model.id, generation)
        file = tmp_path / f"{model.id}.{model.output_extension}"
        file.write_bytes(await real.download(generation_id))
        found = probe(file)
        assert (found.width_pixels, found.height_pixels) == (256, 256)
        assert found.codec == ("h264" if model.kind == "video" else "png")
        percents = [one["percent"] for one in progress]
        assert percents == sorted(percents)
        assert all(one["node"] for one in progress[1:-1])
        if model.kind == "video":
            assert found.frames >= 16
            with av.open(str(file)) as container:
                # The clip that is uploaded for interpolation is a silent one.
                assert bool(container.streams.audio) == (model.audio and not model.clip_parameters)
        if model.id.startswith("wan"):
            # Long enough for a report of each second to see the sampler.
            assert any(one["steps"] == 4 for one in progress)
            previews = [base64.b64decode(one["preview"]) for one in progress if one["preview"]]
            with Image.open(io.BytesIO(previews[-1])) as preview:
                assert (preview.format, max(preview.size)) == ("JPEG", 320)
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
    if chosen_device() == "cuda":
        # Less than a worker waits before it kills: decoding itself hears the interrupt.
        real.prolong("decode", 4.0)
    generation_id = await real.order(steps=30 if node != "Decode" else 4)
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


@pytest.mark.parametrize(("save_seconds", "killed"), [(3.0, False), (30.0, True)])
async def test_cancel_in_the_last_save_is_free_and_delivers_nothing(
    real: RealPlatformHarness, save_seconds: float, killed: bool
) -> None:
    """ComfyUI ignores an interrupt there: the file is written and the prompt succeeds, or the process must go."""
    before = await real.balance()
    real.prolong("save", save_seconds)
    try:
        pid = real.comfyui_pid()
        generation_id = await real.order()
        await eventually(lambda: any(name.endswith(".mp4") for name in real.files()), 120, "the last save")
        await real.cancel(generation_id)
        generation = await real.ended(generation_id)
        await eventually(lambda: real.files() == [], 30, "an empty disk")
    finally:
        real.prolong("save", 0)
    assert (generation["status"], generation["download"]) == ("cancelled", None)
    assert await settled(real) == before
    following = await real.ended(await real.order())
    assert following["status"] == "completed"
    assert (real.comfyui_pid() != pid) == killed
    assert real.delivered(generation_id) == []
    assert len(real.delivered(following["id"])) >= 1


async def test_comfyui_killed_at_random_costs_nobody_a_file_or_a_credit(real: RealPlatformHarness) -> None:
    seed = int(os.environ.get("SEED", "7"))
    chance = random.Random(seed)
    before, _ = await real.balance()
    # A worker whose first start fails ends itself. RunPod starts another one; here, nobody does.
    await eventually(lambda: real.comfyui_boots() != [], 120, "the worker's first start")
    ordered = [await real.order(chance.choice(QUICK_MODELS)) for _ in range(ORDERS)]
    kills = 0

    async def kill_now_and_then() -> None:
        nonlocal kills
        boots = 0

        def has_started() -> bool:
            return len(real.comfyui_boots()) > boots

        while True:
            # Most kills meet a job. Some meet a start, but not each of them: then no job would ever run.
            if chance.random() < 0.8:
                await eventually(has_started, CAMPAIGN_SECONDS, "the next start of ComfyUI")
            # As long as a start takes, so that a busy machine has as many kills for an order as an idle one.
            await asyncio.sleep(chance.uniform(0, 2) * (real.comfyui_boots() or [10.0])[-1])
            boots = len(real.comfyui_boots())
            if (pid := real.comfyui_pid()) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills += 1

    killing = asyncio.create_task(kill_now_and_then())
    try:
        async with asyncio.timeout(CAMPAIGN_SECONDS):
            ended = [await real.ended(generation_id, CAMPAIGN_SECONDS) for generation_id in ordered]
    finally:
        killing.cancel()
    outcomes = [generation["status"] for generation in ended]
    print(f"seed {seed}: {kills} kills, {outcomes.count('completed')} of {ORDERS} completed, {set(outcomes)}")
    assert set(outcomes) <= {"completed", "failed"}
    completed = [generation for generation in ended if generation["status"] == "completed"]
    for generation in completed:
        file = await real.download(generation["id"])
        assert len(file) > 1000
        assert file[4:8] == b"ftyp" if generation["kind"] == "video" else file.startswith(b"\x89PNG")
    assert await settled(real) == (before - sum(generation["price_credits"] for generation in completed), 0)
    real.command("auditor", "check", "--settled")
    await eventually(lambda: real.files() == [], 60, "an empty disk")
    assert kills > 0
