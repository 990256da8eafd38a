"""The renderer on the stand-in: what is delivered, what is shown, what stays behind (nothing)."""

import asyncio
import io
import json
import logging
import time
import uuid
from collections.abc import Callable
from itertools import pairwise

import pytest
from PIL import Image

from gpu_endpoint.failures import InvalidInput, JobFailure, MalformedJob, OutputMissing, WorkerMisconfigured
from tests.comfyui import graphs
from tests.comfyui.conftest import PROMPT, RendererHarness

MakeRenderer = Callable[..., RendererHarness]


def png(colour: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("L", (8, 8), colour).save(encoded, "PNG")
    return encoded.getvalue()


async def test_clip_is_rendered_and_nothing_stays(comfyui: RendererHarness) -> None:
    rendered = await comfyui.render(graphs.quick())
    assert rendered.path.suffix == ".mp4"
    assert rendered.path.read_bytes().startswith(b".mp4")
    assert rendered.facts["runs"] == 1
    assert rendered.facts["comfyui_version"] == "0.33.0"
    assert int(rendered.facts["peak_ram_bytes"]) > 1_000_000
    await comfyui.expect_nothing_left()


async def test_report_says_how_much_memory_a_job_took(comfyui: RendererHarness) -> None:
    facts = (await comfyui.render(graphs.slow())).facts
    assert facts["peak_vram_bytes"] == 8 * 2**30
    assert 10_000_000 < int(facts["peak_ram_bytes"]) < 2**30


async def test_identical_retry_on_a_warm_worker_writes_a_file_of_its_own(comfyui: RendererHarness) -> None:
    """ComfyUI would answer from its cache, and name the first file, which was delivered and is gone."""
    first = await comfyui.render(graphs.sampled())
    second = await comfyui.render(graphs.sampled())
    assert first.path.read_bytes() == second.path.read_bytes()
    sampled = [report.step for report in comfyui.reports]
    assert sampled[-1] is None, "what was sampled before is not sampled again"
    assert comfyui.boots == 1


async def test_second_picture_of_the_same_name_is_the_one_rendered(comfyui: RendererHarness) -> None:
    first = await comfyui.render(graphs.loading("image.png"), ".png", image=png(1))
    again = await comfyui.render(graphs.loading("image.png"), ".png", image=png(1))
    other = await comfyui.render(graphs.loading("image.png"), ".png", image=png(2))
    assert first.path.read_bytes() == again.path.read_bytes() != other.path.read_bytes()
    await comfyui.expect_nothing_left()


async def test_only_the_first_picture_of_a_file_is_rendered(comfyui: RendererHarness) -> None:
    """ComfyUI loads each one that lies behind it, too: a batch, which takes the memory and the time of all."""
    several = [
        await comfyui.render(graphs.loading("image.png"), ".png", image=png(1) + png(colour)) for colour in (2, 3)
    ]
    other = await comfyui.render(graphs.loading("image.png"), ".png", image=png(4) + png(2))
    assert several[0].path.read_bytes() == several[1].path.read_bytes() != other.path.read_bytes()
    await comfyui.expect_nothing_left()


async def test_prompt_that_is_called_like_a_picture_stays_as_it_is(comfyui: RendererHarness) -> None:
    graph = graphs.sampled()
    graph["7"]["inputs"]["text"] = "image.png"
    files = [(await comfyui.render(graph, image=png(1))).path.read_bytes() for _ in range(2)]
    assert files[0] == files[1], "the folder of an attempt would be another each time"


async def test_percentage_never_goes_back_and_steps_count_over_all_samplers(comfyui: RendererHarness) -> None:
    await comfyui.render(graphs.sampled())
    percents = [report.percent for report in comfyui.reports]
    assert percents == sorted(percents)
    assert percents[0] == 0
    assert 90 <= percents[-1] <= 95, "the last message may come after the end"
    steps = [(report.step, report.steps) for report in comfyui.reports if report.step is not None]
    assert sorted(set(steps)) == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {"High noise steps", "Low noise steps", "Decode", "Save"} <= {report.node for report in comfyui.reports}
    assert {report.stage for report in comfyui.reports if report.node == "Save"} == {"encoding"}


async def test_previews_are_small_jpegs_and_at_most_one_a_second(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer("--standin-step-seconds", "0.15")
    arrived: list[tuple[float, bytes]] = []

    def report(progress: object) -> None:
        preview = getattr(progress, "preview", None)
        if preview is not None and (not arrived or arrived[-1][1] is not preview):
            arrived.append((time.monotonic(), preview))

    directory = comfyui.directory / "job"
    directory.mkdir()
    await comfyui.renderer.render(comfyui.job(graphs.sampled(steps=16)), [], directory, report)
    assert len(arrived) >= 2
    assert all(later - earlier > 0.9 for (earlier, _), (later, _) in pairwise(arrived))
    with Image.open(io.BytesIO(arrived[0][1])) as picture:
        assert (picture.format, picture.size) == ("JPEG", (320, 180))
    assert len(arrived[0][1]) < 32 * 1024


@pytest.mark.parametrize("kind", ["images", "animated", "gifs", "videos", "video", "audio"])
async def test_outputs_of_every_kind_are_found(comfyui: RendererHarness, kind: str) -> None:
    file = {"filename": "x.webm", "subfolder": "made", "type": "output", "content": "the file"}
    outputs = {"text": ["words"], "animated": [True], kind: [None, file]}
    graph = {"1": graphs.node("TrapOutput", trap="outputs", outputs=outputs)}
    assert (await comfyui.render(graph, ".webm")).path.read_text() == "the file"
    await comfyui.expect_nothing_left()


def writes(kind: str, *names: str, folder: str = "output") -> graphs.Graph:
    """A node that writes these files; each holds its own name."""
    files = [{"filename": name, "subfolder": "", "type": folder, "content": name} for name in names]
    return graphs.node("TrapOutput", trap="outputs", outputs={kind: files})


async def test_ordered_file_is_picked_among_several_and_temporary_ones_are_not(comfyui: RendererHarness) -> None:
    graph = {"1": writes("images", "a.png", folder="temp"), "2": writes("images", "b.txt", "c.png", "d.png")}
    graph |= {"3": graphs.quick()["1"], "4": graphs.node("PreviewImage", images=["3", 0])}
    rendered = await comfyui.render(graph, ".png")
    assert (rendered.path.read_text(), rendered.facts["files"]) == ("c.png", 3)
    await comfyui.expect_nothing_left()


async def test_clip_is_picked_among_sounds_and_pictures_and_nothing_else_stays(comfyui: RendererHarness) -> None:
    graph = {"1": writes("audio", "sound.flac"), "2": writes("images", "still.png", "clip.MP4")}
    rendered = await comfyui.render(graph)
    assert (rendered.path.read_text(), rendered.facts["files"]) == ("clip.MP4", 3)
    assert [path.name for path in rendered.path.parent.iterdir()] == ["output.MP4"]
    await comfyui.expect_nothing_left()


async def test_node_that_saves_orders_is_taken_before_others_wherever_it_stands(comfyui: RendererHarness) -> None:
    graph = graphs.quick() | {"0": writes("videos", "first.mp4"), "9": writes("gifs", "last.mp4")}
    rendered = await comfyui.render(graph)
    assert rendered.path.read_bytes().startswith(b".mp4")
    assert rendered.facts["files"] == 3
    await comfyui.expect_nothing_left()


async def test_several_pictures_of_one_save_yield_the_first(comfyui: RendererHarness) -> None:
    names = [f"picture_{number:05}_.png" for number in (1, 2, 3)]
    rendered = await comfyui.render({"1": writes("images", *names)}, ".png")
    assert (rendered.path.read_text(), rendered.facts["files"]) == (names[0], 3)
    await comfyui.expect_nothing_left()


async def test_report_of_a_failed_choice_says_how_many_files_there_were(comfyui: RendererHarness) -> None:
    with pytest.raises(OutputMissing, match=r"no .mp4 file among the 2 named ones \(.flac, .png\)") as caught:
        await comfyui.render({"1": writes("audio", "sound.flac"), "2": writes("images", "still.png")})
    assert caught.value.facts["files"] == 2
    await comfyui.expect_nothing_left()


@pytest.mark.parametrize(
    "named",
    [
        {"filename": "gone.mp4", "subfolder": "", "type": "output"},
        {"filename": "a.mp4", "subfolder": "../../..", "type": "output"},
        {"filename": "/etc/hostname", "subfolder": "", "type": "output"},
        {"filename": "outside.mp4", "subfolder": "..", "type": "output", "content": "of somebody else"},
        {"filename": "a.mp4", "subfolder": "", "type": "temp"},
        {"filename": "a.png", "subfolder": "", "type": "output", "content": "a picture"},
        {"filename": "a.mp4", "subfolder": "", "type": "output", "content": ""},
    ],
)
async def test_file_that_is_not_as_ordered_is_not_delivered(comfyui: RendererHarness, named: dict[str, str]) -> None:
    graph = {"1": graphs.node("TrapOutput", trap="outputs", outputs={"videos": [named]})}
    with pytest.raises(OutputMissing):
        await comfyui.render(graph)
    await comfyui.expect_nothing_left()


async def test_partly_invalid_workflow_fails_and_its_good_half_does_not_run(comfyui: RendererHarness) -> None:
    graph = graphs.slow(200) | {"91": graphs.node("LoadImage", "Mask", image="missing.png")}
    graph["92"] = graphs.node("SaveImage", images=["91", 0], filename_prefix="x")
    with pytest.raises(WorkerMisconfigured, match=r"LoadImage “Mask” .* custom_validation_failed"):
        await comfyui.render(graph)
    await comfyui.expect_nothing_left()
    assert comfyui.boots == 1


async def test_missing_model_is_named_with_node_and_title(comfyui: RendererHarness) -> None:
    graph = graphs.sampled()
    graph["2"]["inputs"]["vae_name"] = "missing_vae.safetensors"
    with pytest.raises(WorkerMisconfigured, match=r"VAELoader “VAE” \(node 2\): .* has no missing_vae.safetensors"):
        await comfyui.render(graph)


async def test_missing_node_is_the_workers_fault(comfyui: RendererHarness) -> None:
    with pytest.raises(WorkerMisconfigured, match="missing_node_type NoSuchNode “Mystery”"):
        await comfyui.render(graphs.quick() | {"9": graphs.node("NoSuchNode", "Mystery")})


async def test_prompt_that_comfyui_chokes_on_fails_and_the_next_runs(comfyui: RendererHarness) -> None:
    with pytest.raises(WorkerMisconfigured, match="HTTP 500"):
        await comfyui.render(graphs.trapped("unreadable"))
    await comfyui.render(graphs.quick())
    assert comfyui.boots == 1


@pytest.mark.parametrize("workflow", [None, {}, {"1": 5}, {"1": {"class_type": "X"}}, {"1": {"inputs": {}}}])
async def test_workflow_that_is_none_is_not_posted(comfyui: RendererHarness, workflow: object) -> None:
    job = comfyui.job({}, workflow=workflow if isinstance(workflow, dict) else None)
    with pytest.raises(MalformedJob):
        await comfyui.render_job(job)
    assert await comfyui.left() == {"running": None, "pending": [], "history": []}


@pytest.mark.parametrize("content", [b"", b"no picture"])
async def test_broken_picture_is_the_users_fault(comfyui: RendererHarness, content: bytes) -> None:
    with pytest.raises(InvalidInput):
        await comfyui.render(graphs.loading("image.png"), ".png", image=content)


async def test_value_out_of_range_is_the_users_fault_if_the_user_asked_for_it(comfyui: RendererHarness) -> None:
    graph = graphs.quick()
    graph["1"]["inputs"]["width"] = 100_000
    with pytest.raises(InvalidInput):
        await comfyui.render_job(comfyui.job(graph, parameters={"prompt": PROMPT, "width": 100_000}))
    with pytest.raises(WorkerMisconfigured):
        await comfyui.render_job(comfyui.job(graph))


async def test_users_words_are_in_no_log_line_no_failure_and_no_file(
    comfyui: RendererHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    message = f"could not tokenize {PROMPT!r} with key sk-abcdefghijkl from https://host/x?sig=1\nTraceback (most"
    graph = graphs.sampled()
    graph["7"]["inputs"]["text"] = PROMPT
    graph["9"]["inputs"]["trap"] = ["90", 0]
    graph["90"] = graphs.node(
        "Trap",
        "Encode",
        trap="raise",
        exception_type="builtins.ValueError",
        message=message,
        times=1,
        name=uuid.uuid4().hex,
    )
    with pytest.raises(JobFailure) as caught:
        await comfyui.render(graph)
    error = json.loads(caught.value.as_error())
    assert error["operator_detail"] == (
        "Trap “Encode” (node 90): builtins.ValueError: could not tokenize '<user's words>' with key <key> "
        "from <address> Traceback (most"
    )
    assert error["detail"] == "The work failed on our side."
    rendered = await comfyui.render(graph)
    assert PROMPT.encode() not in rendered.path.read_bytes()
    assert PROMPT not in caplog.text
    assert PROMPT not in caught.value.as_error()
    await comfyui.expect_nothing_left()


async def test_cancel_while_comfyui_still_boots_leaves_it_for_the_next_job(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer("--standin-boot-seconds", "1")
    task = asyncio.create_task(comfyui.render(graphs.quick()))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await comfyui.render(graphs.quick())
    assert comfyui.boots == 1
