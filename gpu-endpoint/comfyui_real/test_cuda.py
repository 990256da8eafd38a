"""What only a GPU shows: memory that really runs out, a CUDA context that really dies, the peak of a job's memory."""

import asyncio

import pytest
from tests.comfyui import graphs
from tests.comfyui.conftest import RendererHarness
from tests.conftest import until

from comfyui_real.conftest import TakeGpuMemory
from comfyui_real.test_driver import Figures, anew, frames
from gpu_endpoint.failures import OutOfMemory, WorkerUnavailable
from gpu_endpoint.renderers.comfyui.client import ComfyUIClient, SystemStats, pause_until_freed

LARGE = (1920, 1088, 81)
"""Its frames alone take a gigabyte of the GPU's memory, and as much again when they are put together."""
TOO_LITTLE_TO_SAMPLE = 256
"""Mebibytes: less than the positions of such a clip's latents take."""
TOO_LITTLE_TO_DECODE = 512
"""Mebibytes: less than all frames at once take, or than tiles as large as ComfyUI tries by itself; enough for ours."""
TOO_LITTLE_FOR_TILES = 16

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("cuda")]


async def stats(comfyui: RendererHarness) -> SystemStats:
    """Version and memory, as ComfyUI tells them."""
    async with ComfyUIClient(comfyui.process.url, answer_seconds=10) as client:
        return await client.stats()


async def release(comfyui: RendererHarness) -> None:
    """Let ComfyUI give back what its allocator keeps, but remember what it computed."""
    async with ComfyUIClient(comfyui.process.url, answer_seconds=10) as client:
        await client.free(forget_results=False)
    await pause_until_freed()


async def sample(comfyui: RendererHarness) -> graphs.Graph:
    """A large order that is sampled, but not yet decoded: only its first frame was."""
    order = anew(size=LARGE)
    cut = graphs.node("LatentCut", samples=order["12"]["inputs"]["samples"], dim="t", index=0, amount=1)
    short = order | {"20": cut, "12": order["12"] | {"inputs": order["12"]["inputs"] | {"samples": ["20", 0]}}}
    assert len(frames((await comfyui.render(short)).path)) == 1
    await release(comfyui)
    return order


async def expect_next_job_to_run(comfyui: RendererHarness, boots: int) -> None:
    assert frames((await comfyui.render(anew())).path) == [(256, 256)] * 5
    assert comfyui.boots == boots


async def test_memory_that_runs_out_in_the_sampler_is_told_and_the_next_job_runs(
    comfyui: RendererHarness, take_gpu_memory: TakeGpuMemory, figures: Figures
) -> None:
    await comfyui.render(anew())
    await release(comfyui)
    with take_gpu_memory(TOO_LITTLE_TO_SAMPLE):
        with pytest.raises(OutOfMemory, match="gpu_memory: KSamplerAdvanced “High noise steps”") as caught:
            await comfyui.render(anew(size=LARGE))
        taken = (await stats(comfyui)).used_vram_bytes
    report = caught.value.facts
    figures(f"{caught.value.detail}; {report}")
    assert report["runs"] == 2
    assert int(report["peak_vram_bytes"]) > 0.95 * taken
    await expect_next_job_to_run(comfyui, boots=1)


async def test_sampler_runs_again_when_memory_is_there_again(
    comfyui: RendererHarness, take_gpu_memory: TakeGpuMemory, figures: Figures
) -> None:
    await comfyui.render(anew())
    await release(comfyui)
    comfyui.process._lines.clear()
    with take_gpu_memory(TOO_LITTLE_TO_SAMPLE) as neighbour:
        task = asyncio.create_task(comfyui.render(anew(size=LARGE)))
        await until(lambda: "Got an OOM" in comfyui.process.last_words(lines=40))
        neighbour.let_go()
        rendered = await task
    assert frames(rendered.path) == [LARGE[:2]] * LARGE[2]
    figures(str(rendered.facts))
    assert rendered.facts["runs"] == 2
    assert "decoding" not in rendered.facts
    assert comfyui.boots == 1


async def test_clip_is_decoded_in_tiles_where_memory_is_short(
    comfyui: RendererHarness, take_gpu_memory: TakeGpuMemory, figures: Figures
) -> None:
    order = await sample(comfyui)
    with take_gpu_memory(TOO_LITTLE_TO_DECODE):
        rendered = await comfyui.render(order)
    assert frames(rendered.path) == [LARGE[:2]] * LARGE[2]
    figures(str(rendered.facts))
    assert (rendered.facts["runs"], rendered.facts["decoding"]) == (3, "tiled")
    await expect_next_job_to_run(comfyui, boots=1)


async def test_memory_that_is_too_short_for_tiles_is_told_and_the_next_job_runs(
    comfyui: RendererHarness, take_gpu_memory: TakeGpuMemory, figures: Figures
) -> None:
    order = await sample(comfyui)
    told = pytest.raises(OutOfMemory, match="gpu_memory: VAEDecodeTiled “Decode”")
    with take_gpu_memory(TOO_LITTLE_FOR_TILES), told as caught:
        await comfyui.render(order)
    report = caught.value.facts
    figures(f"{caught.value.detail}; {report}")
    assert (report["runs"], report["decoding"]) == (3, "tiled")
    await expect_next_job_to_run(comfyui, boots=1)


async def test_dead_context_costs_a_new_process_and_the_next_job_runs(
    comfyui: RendererHarness, figures: Figures
) -> None:
    order = anew()
    order["20"] = graphs.node("BreakContext", samples=["9", 0])
    order["10"]["inputs"]["latent_image"] = ["20", 0]
    with pytest.raises(WorkerUnavailable, match="dead_context: ") as caught:
        await comfyui.render(order)
    figures(caught.value.detail)
    await expect_next_job_to_run(comfyui, boots=2)


async def test_peak_of_a_short_job_is_reported(comfyui: RendererHarness, figures: Figures) -> None:
    await release(comfyui)
    idle = await stats(comfyui)
    rendered = await comfyui.render(anew(size=LARGE))
    figures(f"idle {idle}; {rendered.facts}; afterwards {await stats(comfyui)}")
    width, height, length = LARGE
    frame_bytes = width * height * 3 * 2
    assert int(rendered.facts["peak_vram_bytes"]) > idle.used_vram_bytes + frame_bytes * length
