"""Memory that runs out, in each of its shapes, and the way out: free and retry, decode in tiles, give up."""

import json
import signal
import uuid
from typing import Any

import pytest

from gpu_endpoint.failures import OutOfMemory
from tests.comfyui import graphs
from tests.comfyui.conftest import RendererHarness

SHAPES: dict[str, dict[str, Any]] = {
    "allocator": {"exception_type": "torch.OutOfMemoryError", "message": "Allocation on device"},
    "accelerator": {"exception_type": "torch.AcceleratorError", "message": "CUDA error: out of memory"},
    "host": {
        "exception_type": "builtins.RuntimeError",
        "message": "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory",
    },
}


def failing(shape: str, times: int) -> graphs.Graph:
    """A sampled clip before whose decoding memory runs out that often."""
    graph = graphs.sampled()
    killed = {"trap": "die", "signal": int(signal.SIGKILL)}
    trap = killed if shape == "kernel" else {"trap": "raise", **SHAPES[shape]}
    graph["90"] = graphs.node("Trap", "Trap", name=uuid.uuid4().hex, times=times, image=["11", 0], **trap)
    graph["12"]["inputs"]["samples"] = ["90", 0]
    return graph


@pytest.mark.parametrize("shape", [*SHAPES, "kernel"])
async def test_job_is_run_again_when_memory_ran_out_once(comfyui: RendererHarness, shape: str) -> None:
    rendered = await comfyui.render(failing(shape, times=1))
    assert rendered.facts["runs"] == 2
    assert "decoding" not in rendered.facts
    percents = [report.percent for report in comfyui.reports]
    assert percents == sorted(percents)
    assert comfyui.boots == (2 if shape == "kernel" else 1)
    await comfyui.expect_nothing_left()


async def test_second_run_after_gpu_memory_goes_on_from_what_was_sampled(comfyui: RendererHarness) -> None:
    await comfyui.render(failing("allocator", times=1))
    assert [report.step for report in comfyui.reports if report.step] == sorted(
        report.step for report in comfyui.reports if report.step
    )
    assert max(report.step or 0 for report in comfyui.reports) == 4


async def test_decoding_goes_in_tiles_when_memory_ran_out_twice(comfyui: RendererHarness) -> None:
    rendered = await comfyui.render(failing("kernel", times=2))
    assert (rendered.facts["runs"], rendered.facts["decoding"]) == (3, "tiled")
    assert comfyui.boots == 3
    await comfyui.expect_nothing_left()


async def test_what_tiles_cannot_help_is_given_up_after_two_runs(comfyui: RendererHarness) -> None:
    with pytest.raises(OutOfMemory, match=r"gpu_memory: Trap “Trap” .* torch.OutOfMemoryError") as caught:
        await comfyui.render(failing("allocator", times=9))
    report = json.loads(caught.value.as_error())["report"]
    assert report["runs"] == 2
    assert report["peak_vram_bytes"] == 8 * 2**30
    assert report["peak_ram_bytes"] > 0
    await comfyui.expect_nothing_left()


async def test_third_run_is_the_last(comfyui: RendererHarness) -> None:
    with pytest.raises(OutOfMemory, match="killed from outside"):
        await comfyui.render(failing("kernel", times=9))
    await comfyui.render(graphs.quick())
    assert comfyui.boots == 4
