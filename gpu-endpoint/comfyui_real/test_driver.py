"""The driver against a real ComfyUI: real samplers, real files, real interrupts, real kills."""

import asyncio
import io
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from tests.comfyui import graphs
from tests.comfyui.conftest import PROMPT, RendererHarness, cancelled
from tests.comfyui.shapes import observe
from tests.conftest import until

from gpu_endpoint.failures import ExecutionFailed, InvalidInput, WorkerMisconfigured

RECORDED = Path(graphs.__file__).with_name("recorded_shapes.json")
BOOT_SECONDS = 60
"""What a start may take on a busy machine."""

LASTING: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {"High noise steps": {"steps": 40}, "Decode": {"steps": 4}},
    "cuda": {
        "High noise steps": {"steps": 1000, "size": (832, 480, 81)},
        "Decode": {"steps": 2, "size": (1920, 1088, 121)},
    },
}
"""By device and node: an order that is in that node for a while, even where ComfyUI is fast."""
KILLED: dict[str, dict[str, Any]] = {"cpu": {}, "cuda": {"steps": 40, "size": (832, 480, 81)}}
"""By device: an order that can be killed in its sampler and in its save, and then is run again."""

Figures = Callable[[str], None]

pytestmark = pytest.mark.timeout(300)


def frames(path: Path) -> list[tuple[int, int]]:
    """Width and height of every frame of an H.264 clip."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert PROMPT not in str(container.metadata)
        return [(frame.width, frame.height) for frame in container.decode(video=0)]


WORKFLOWS = sorted(str(path.relative_to(graphs.CATALOGUE)) for path in graphs.CATALOGUE.glob("*/workflow*.json"))
"""All of the catalogue's, those of retired models included: their queued orders still run."""


def anew(**order: Any) -> graphs.Graph:
    """An order that was never sampled before."""
    return graphs.sampled(seed=time.time_ns() % 2**32, **order)


def smallest(workflow: str) -> tuple[graphs.Graph, dict[str, Any]]:
    """One of the catalogue's, bound to as small an order as there can be, and its model."""
    path = graphs.CATALOGUE / workflow
    graph: graphs.Graph = json.loads(path.read_text())
    model: dict[str, Any] = json.loads(path.with_name("model.json").read_text())
    frames = model["limits"].get("frame_step", 1) + model["limits"].get("frame_offset", 1)
    values: dict[tuple[str, str | None], Any] = {
        ("width", None): 256,
        ("height", None): 256,
        ("width", "half"): 128,
        ("height", "half"): 128,
        ("duration_seconds", "frames"): frames,
        ("duration_seconds", "float"): 1.0,
    }
    for binding in model["bindings"]:
        inputs = graph[binding["node"]]["inputs"]
        wanted = binding["parameter"], binding.get("transform")
        inputs[binding["input"]] = values.get(wanted, inputs[binding["input"]])
    return graph, model


def clip_with_sound() -> bytes:
    """A second of H.264 at 8 frames a second, with silence."""
    encoded = io.BytesIO()
    with av.open(encoded, "w", format="mp4") as container:
        video, audio = container.add_stream("libx264", rate=8), container.add_stream("aac", rate=16000)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        for shade in range(0, 200, 25):
            picture = np.full((240, 320, 3), shade, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux(audio.encode(silence))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    return encoded.getvalue()


def linear_gradient() -> bytes:
    """A picture."""
    encoded = io.BytesIO()
    Image.linear_gradient("L").save(encoded, "PNG")
    return encoded.getvalue()


async def test_shapes_are_those_that_the_stand_in_is_held_against(comfyui: RendererHarness, device: str) -> None:
    """``RECORD=1`` writes them anew."""
    try:
        seen = await observe(comfyui.process.url)
    finally:
        await comfyui.restart()
    if os.environ.get("RECORD"):
        RECORDED.write_text(json.dumps(seen, indent=1, sort_keys=True) + "\n")
    recorded = json.loads(RECORDED.read_text())
    if device == "cuda":
        recorded["system_stats"]["devices"][0] |= {"type": "cuda", "index": "number"}
    assert {name: shape for name, shape in seen.items() if shape != recorded.get(name)} == {}


async def test_text_becomes_a_clip_and_a_retry_takes_what_was_sampled(comfyui: RendererHarness) -> None:
    graph = graphs.sampled(seed=1)
    graph["7"]["inputs"]["text"] = PROMPT
    first = await comfyui.render(graph)
    assert frames(first.path) == [(256, 256)] * 5
    assert PROMPT.encode() not in first.path.read_bytes()
    percents = [report.percent for report in comfyui.reports]
    assert percents == sorted(percents)
    assert max(percents) >= 90
    steps = {(report.step, report.steps) for report in comfyui.reports if report.step}
    assert {(1, 4), (2, 4), (3, 4), (4, 4)} <= steps
    [*_, preview] = [report.preview for report in comfyui.reports if report.preview]
    with Image.open(io.BytesIO(preview)) as picture:
        assert (picture.format, max(picture.size)) == ("JPEG", 320)
    second = await comfyui.render(graph)
    assert frames(second.path) == [(256, 256)] * 5
    assert float(second.facts["comfyui_seconds"]) < float(first.facts["comfyui_seconds"]) / 2
    assert float(second.facts["begin_seconds"]) < 0.3


@pytest.mark.parametrize("workflow", WORKFLOWS)
async def test_every_workflow_of_the_catalogue_runs(comfyui: RendererHarness, workflow: str, figures: Figures) -> None:
    graph, model = smallest(workflow)
    given = {"image": linear_gradient(), "clip": clip_with_sound()}
    uploads = {name: given[name] for name in given if name in model["parameters_schema"]["properties"]}
    began = time.monotonic()
    rendered = await comfyui.render(graph, f".{model['output_extension']}", **uploads)
    own = time.monotonic() - began - float(rendered.facts["comfyui_seconds"])
    memory = {kind: int(rendered.facts[f"peak_{kind}_bytes"]) >> 20 for kind in ("ram", "vram")}
    figures(f"{rendered.facts['comfyui_seconds']} s in ComfyUI, {own:.3f} s beside it, MiB at the most: {memory}")
    if model["kind"] == "image":
        with Image.open(rendered.path) as picture:
            assert (picture.format, picture.size) == ("PNG", (256, 256))
        return
    made = frames(rendered.path)
    assert set(made) == {(256, 256)}
    assert len(made) == (15 if "clip" in uploads else model["limits"]["frame_step"] + 1)
    with av.open(str(rendered.path)) as container:
        assert bool(container.streams.audio) == model.get("audio", False)


async def test_start_lasts_as_long_as_comfyui_takes(comfyui: RendererHarness, figures: Figures) -> None:
    await comfyui.renderer.close()
    began = time.monotonic()
    await comfyui.renderer.open()
    seconds = time.monotonic() - began
    assert seconds < BOOT_SECONDS
    figures(f"{seconds:.2f} s until it answers")


async def test_picture_is_delivered(comfyui: RendererHarness) -> None:
    with Image.open((await comfyui.render(graphs.picture(), ".png")).path) as picture:
        assert (picture.size, picture.info) == ((64, 64), {})


@pytest.mark.parametrize("node", ["High noise steps", "Decode"])
async def test_cancel_ends_within_five_seconds(
    comfyui: RendererHarness, device: str, node: str, figures: Figures
) -> None:
    async with comfyui.rendering(anew(**LASTING[device][node]), node) as task:
        seconds = await cancelled(task)
    assert seconds < 6
    began = time.monotonic()
    assert frames((await comfyui.render(graphs.quick())).path) == [(64, 64)] * 4
    figures(f"stopped after {seconds:.2f} s, the next job done {time.monotonic() - began:.2f} s later")


async def test_cancel_in_the_last_save_delivers_nothing(comfyui: RendererHarness, figures: Figures) -> None:
    graph = graphs.quick()
    graph["1"]["inputs"] |= {"width": 832, "height": 480, "batch_size": 81, "color": time.time_ns() % 2**24}
    async with comfyui.rendering(graph, "Save") as task:
        seconds = await cancelled(task)
    await comfyui.process.ready()
    figures(f"stopped after {seconds:.2f} s, {comfyui.boots - 1} new processes")


async def test_node_that_hears_no_interrupt_costs_a_new_process(comfyui: RendererHarness, figures: Figures) -> None:
    graph = graphs.quick()
    graph["1"]["inputs"] |= {"width": 2048, "height": 1024, "batch_size": 480, "color": time.time_ns() % 2**24}
    async with comfyui.rendering(graph, "EmptyImage") as task:
        stopped = await cancelled(task)
    assert stopped < 7
    began = time.monotonic()
    await comfyui.render(graphs.quick())
    seconds = time.monotonic() - began
    assert seconds < BOOT_SECONDS
    figures(f"stopped after {stopped:.2f} s, {comfyui.boots - 1} new processes, next job done {seconds:.2f} s later")


@pytest.mark.parametrize("node", ["High noise steps", "Save"])
async def test_killed_comfyui_is_replaced_and_the_clip_is_whole(
    comfyui: RendererHarness, device: str, node: str
) -> None:
    async with comfyui.rendering(anew(**KILLED[device]), node) as task:
        os.kill(comfyui.process.pid, signal.SIGKILL)
        rendered = await task
    width, height, length = KILLED[device].get("size", graphs.SMALLEST)
    assert frames(rendered.path) == [(width, height)] * length
    assert comfyui.boots == 2


@pytest.mark.parametrize("damage", ["zeros", "cut"])
async def test_damaged_model_is_named(comfyui: RendererHarness, base_directory: Path, damage: str) -> None:
    graph = graphs.sampled(seed=2)
    whole = base_directory / "models/vae" / graph["2"]["inputs"]["vae_name"]
    damaged = whole.with_name(f"{damage}.safetensors")
    damaged.write_bytes(b"\0" * 16 if damage == "zeros" else whole.read_bytes()[: whole.stat().st_size // 2])
    graph["2"]["inputs"]["vae_name"] = damaged.name
    with pytest.raises(WorkerMisconfigured, match=rf"damaged model file {damaged.name}: VAELoader “VAE”"):
        await comfyui.render(graph)


async def test_missing_model_is_named(comfyui: RendererHarness) -> None:
    graph = graphs.sampled(seed=2)
    graph["2"]["inputs"]["vae_name"] = "missing.safetensors"
    with pytest.raises(WorkerMisconfigured, match=r"VAELoader “VAE” \(node 2\): .* has no missing.safetensors"):
        await comfyui.render(graph)


async def test_failing_node_is_named_without_the_users_words(comfyui: RendererHarness) -> None:
    """A latent of the wrong number of channels makes the decoder fail."""
    graph = graphs.sampled(seed=3)
    graph["7"]["inputs"]["text"] = PROMPT
    graph["20"] = graphs.node("EmptyLatentImage", "Wrong latents", width=64, height=64, batch_size=1)
    graph["12"]["inputs"]["samples"] = ["20", 0]
    with pytest.raises(ExecutionFailed, match="VAEDecode “Decode”") as caught:
        await comfyui.render(graph)
    assert PROMPT not in caught.value.as_error()


async def test_half_of_a_picture_is_the_users_fault(comfyui: RendererHarness) -> None:
    with pytest.raises(InvalidInput):
        await comfyui.render(graphs.loading("image.png"), ".png", image=b"\x89PNG\r\n\x1a\n half of it")


async def test_tiled_decoding_is_what_comfyui_calls_so(comfyui: RendererHarness) -> None:
    from gpu_endpoint.renderers.comfyui.workflow import tiled

    frugal = tiled(graphs.sampled(seed=4))
    assert frugal is not None
    assert frames((await comfyui.render(frugal)).path) == [(256, 256)] * 5


async def test_cancels_at_many_moments_leave_nothing(comfyui: RendererHarness) -> None:
    for number in range(12):
        task = asyncio.create_task(comfyui.render(anew()))
        await asyncio.sleep(0.35 * number)
        task.cancel()
        await asyncio.wait([task])
        assert comfyui.files() == []
    await until(lambda: comfyui.process.alive)
