"""Whatever happens to a running prompt: it ends, nothing stays, and the next job runs."""

import asyncio
import os
import signal
import time
from collections.abc import Callable

import aiohttp
import pytest

from gpu_endpoint.failures import ExecutionFailed, WorkerUnavailable
from gpu_endpoint.renderers.comfyui.client import ComfyUIClient, Unreachable
from tests.comfyui import graphs
from tests.comfyui.conftest import PROMPT, RendererHarness, cancelled
from tests.conftest import until

MakeRenderer = Callable[..., RendererHarness]


async def expect_next_job_to_run(comfyui: RendererHarness, boots: int) -> None:
    await comfyui.expect_nothing_left()
    await comfyui.render(graphs.quick())
    await comfyui.expect_nothing_left()
    assert comfyui.boots == boots


async def test_cancel_in_the_sampler_ends_within_a_step(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer("--standin-step-seconds", "0.1")
    async with comfyui.rendering(graphs.sampled(steps=1000), "High noise steps") as task:
        assert await cancelled(task) < 1
    await expect_next_job_to_run(comfyui, boots=1)


async def test_cancel_in_the_last_save_delivers_nothing_though_comfyui_succeeds(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer("--standin-save-seconds", "0.5")
    async with comfyui.rendering(graphs.quick(), "Save") as task:
        await cancelled(task)
    await expect_next_job_to_run(comfyui, boots=1)


async def test_comfyui_that_does_not_listen_to_a_cancel_is_killed(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer("--standin-save-seconds", "30", stop_seconds=0.3)
    async with comfyui.rendering(graphs.quick(), "Save") as task:
        assert await cancelled(task) < 2
    await comfyui.expect_nothing_left()
    assert comfyui.boots == 2


async def test_cancel_while_a_prompt_is_still_validated_keeps_it_from_running(make_renderer: MakeRenderer) -> None:
    """A call that is given up is answered by nobody, and the prompt would be queued all the same."""
    comfyui = make_renderer("--standin-validation-seconds", "0.4", "--standin-step-seconds", "0.1")
    await comfyui.renderer.open()
    task = asyncio.create_task(comfyui.render(graphs.slow(100)))
    await until(lambda: "got prompt" in comfyui.process.last_words())
    await cancelled(task)
    began = time.monotonic()
    await comfyui.render(graphs.quick())
    assert time.monotonic() - began < 5
    assert (comfyui.boots, await comfyui.left()) == (1, {"running": None, "pending": [], "history": []})


@pytest.mark.parametrize("trap", ["deaf", "hang"])
async def test_hanging_comfyui_is_killed_by_a_cancel(make_renderer: MakeRenderer, trap: str) -> None:
    comfyui = make_renderer(stop_seconds=0.3)
    async with comfyui.rendering(graphs.trapped(trap), "Trap") as task:
        assert await cancelled(task) < 2
    await expect_next_job_to_run(comfyui, boots=2)


async def test_repeated_cancel_changes_nothing(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer(stop_seconds=0.5)
    async with comfyui.rendering(graphs.trapped("deaf"), "Trap") as task:
        for _ in range(5):
            task.cancel()
            await asyncio.sleep(0.05)
        with pytest.raises(asyncio.CancelledError):
            await task
    await expect_next_job_to_run(comfyui, boots=2)


async def test_cancel_at_any_moment_leaves_nothing(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer("--standin-save-seconds", "0.02")
    await comfyui.renderer.open()
    for number in range(25):
        task = asyncio.create_task(comfyui.render(graphs.sampled(seed=number)))
        await asyncio.sleep(number * 0.01)
        task.cancel()
        await asyncio.wait([task])
        assert comfyui.files() == []
        assert (await comfyui.left())["running"] is None
    await expect_next_job_to_run(comfyui, boots=1)


async def test_comfyui_that_answers_no_more_is_replaced(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer(stop_seconds=0.3, unreachable_seconds=0.5, answer_seconds=0.3)
    task = asyncio.create_task(comfyui.render(graphs.trapped("hang")))
    await until(lambda: any(report.node == "Trap" for report in comfyui.reports))
    with pytest.raises(WorkerUnavailable, match="does not answer"):
        async with asyncio.timeout(30):
            await task
    await expect_next_job_to_run(comfyui, boots=2)


async def test_prompt_without_progress_is_given_up(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer(silence_seconds=0.5)
    with pytest.raises(WorkerUnavailable, match="no progress"):
        await comfyui.render(graphs.trapped("wait"))
    await expect_next_job_to_run(comfyui, boots=1)


async def test_comfyui_that_crashes_is_started_again(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer()
    with pytest.raises(WorkerUnavailable, match=r"ended by itself: \[INFO\] Starting server \| got prompt$"):
        await comfyui.render(graphs.trapped("die", signal=int(signal.SIGSEGV)))
    await expect_next_job_to_run(comfyui, boots=2)


async def test_last_words_of_a_dying_comfyui_are_told_without_the_users(comfyui: RendererHarness) -> None:
    """It prints what a failing node was given; the job is run again, and then it dies."""
    graph = graphs.trapped("raise", exception_type="torch.OutOfMemoryError", message=PROMPT, times=1, name="words")
    graph["8"] = graphs.node("Trap", trap="die", signal=int(signal.SIGSEGV), image=["9", 0])
    graph["2"]["inputs"]["images"] = ["8", 0]
    with pytest.raises(WorkerUnavailable, match=r"ended by itself: .*<user's words>") as caught:
        await comfyui.render(graph)
    assert PROMPT not in caught.value.as_error()
    await expect_next_job_to_run(comfyui, boots=2)


async def test_comfyui_that_does_not_forget_a_prompt_is_replaced(
    comfyui: RendererHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(_: ComfyUIClient, prompt: str) -> None:
        raise Unreachable(prompt)

    with monkeypatch.context() as patched:
        patched.setattr(ComfyUIClient, "delete_history", unreachable)
        await comfyui.render(graphs.quick())
    await expect_next_job_to_run(comfyui, boots=2)


async def test_cancel_between_two_runs_of_a_job_ends_it(make_renderer: MakeRenderer) -> None:
    """Memory ran out; while it is freed, the job is cancelled."""
    comfyui = make_renderer()
    graph = graphs.trapped("raise", exception_type="torch.OutOfMemoryError", message="", times=1, name="memory")
    task = asyncio.create_task(comfyui.render(graph))
    await comfyui.renderer.open()
    counter = comfyui.settings.work_directory / "user/trap-memory"
    await until(counter.exists)
    assert await cancelled(task) < 2
    await expect_next_job_to_run(comfyui, boots=1)


async def test_file_that_a_kill_left_unfinished_is_never_delivered(make_renderer: MakeRenderer) -> None:
    """A kill in the last save leaves 48 bytes under the final name: the prompt is run again, and they are gone."""
    comfyui = make_renderer("--standin-save-seconds", "0.5")
    async with comfyui.rendering(graphs.quick(), "Save") as task:
        await until(lambda: bool(comfyui.files()))
        os.kill(comfyui.process.pid, signal.SIGKILL)
        rendered = await task
    assert rendered.path.stat().st_size == 4096
    assert rendered.facts["runs"] == 2
    await comfyui.expect_nothing_left()


async def test_dead_gpu_context_needs_a_new_process(comfyui: RendererHarness) -> None:
    message = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(WorkerUnavailable, match="dead_context: Trap “Trap”"):
        await comfyui.render(graphs.trapped("raise", exception_type="torch.AcceleratorError", message=message))
    await expect_next_job_to_run(comfyui, boots=2)


async def test_forgotten_prompt_is_a_failure(comfyui: RendererHarness) -> None:
    with pytest.raises(WorkerUnavailable, match="does not know"):
        await comfyui.render(graphs.trapped("forget"))
    await expect_next_job_to_run(comfyui, boots=1)


async def test_interrupt_by_somebody_else_is_a_failure(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer("--standin-step-seconds", "0.1")
    async with comfyui.rendering(graphs.sampled(steps=1000), "High noise steps") as task:
        async with aiohttp.ClientSession(comfyui.process.url) as http:
            await http.post("/interrupt", json={})
        with pytest.raises(ExecutionFailed, match="somebody else"):
            await task
    await expect_next_job_to_run(comfyui, boots=1)


def slow_after(trap: str, scales: int) -> graphs.Graph:
    """A clip with that trap after its first node, and then that many slow nodes."""
    slow = {key: node for key, node in graphs.slow(scales).items() if key.startswith("1") and key != "1"}
    graph = graphs.trapped(trap) | slow
    graph["100"]["inputs"]["image"] = ["9", 0]
    graph["2"]["inputs"]["images"] = [f"1{scales - 1:02}", 0]
    return graph


@pytest.mark.parametrize("trap", ["lose_sockets", "mute_sockets"])
async def test_socket_that_is_lost_or_falls_silent_costs_only_progress(make_renderer: MakeRenderer, trap: str) -> None:
    comfyui = make_renderer("--standin-step-seconds", "0.1", listen_again_seconds=0.3)
    await comfyui.render(slow_after(trap, 18))
    assert any(report.node == "Scale 17" for report in comfyui.reports), "the socket was opened again"
    assert comfyui.boots == 1
    await comfyui.expect_nothing_left()


async def test_job_ends_though_its_socket_never_speaks_again(make_renderer: MakeRenderer) -> None:
    """The jobs API is asked beside it: long before the silent socket is opened anew, the end is known."""
    comfyui = make_renderer("--standin-step-seconds", "0.2")
    await comfyui.renderer.open()
    began = time.monotonic()
    await comfyui.render(slow_after("mute_sockets", 3))
    assert time.monotonic() - began < 5
    await comfyui.expect_nothing_left()
