"""ComfyUI as a process: how it is started, what it is told, and that it never outlives its worker."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from gpu_endpoint.failures import WorkerUnavailable
from gpu_endpoint.renderers import RENDERERS
from tests.comfyui import graphs
from tests.comfyui.conftest import STAND_IN, MakeSettings, RendererHarness
from tests.conftest import until

MakeRenderer = Callable[..., RendererHarness]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    # A zombie is gone: a container may have no init process that reaps it.
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


async def test_worker_that_is_killed_takes_comfyui_with_it(tmp_path: Path) -> None:
    script = """
        import asyncio, os, time
        from gpu_endpoint.renderers import RENDERERS
        renderer = RENDERERS["comfyui"](os.environ)
        asyncio.run(renderer.open())
        print(renderer._process.pid, flush=True)
        time.sleep(600)
    """
    environment = os.environ | {
        "COMFYUI_DIRECTORY": str(STAND_IN),
        "COMFYUI_PYTHON": sys.executable,
        "COMFYUI_WORK_DIRECTORY": str(tmp_path),
    }
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(script), env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert worker.stdout is not None
    while not (line := await worker.stdout.readline()).strip().isdigit():
        assert line, "it ended"
    assert is_running(int(line))
    worker.kill()
    await worker.wait()
    await until(lambda: not is_running(int(line)))


async def test_comfyui_that_does_not_start_makes_the_worker_unavailable(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer("--standin-broken-boots", "1")
    with pytest.raises(WorkerUnavailable, match="this boot is broken") as caught:
        await comfyui.renderer.open()
    assert caught.value.replace_worker
    await comfyui.renderer.open()


async def test_start_that_takes_too_long_is_ended(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer("--standin-boot-seconds", "60", boot_seconds=0.3)
    with pytest.raises(WorkerUnavailable, match="not ready after"):
        await comfyui.renderer.open()
    assert not comfyui.process.alive


async def test_what_a_killed_comfyui_left_is_gone_when_the_next_is_ready(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer()
    work = comfyui.settings.work_directory
    for name in ("input", "output/folder", "temp"):
        (work / name).mkdir(parents=True)
        (work / name / "left.mp4").write_bytes(b"\0" * 48)
    (work / "output/link").symlink_to("/etc")
    await comfyui.renderer.open()
    assert comfyui.files() == []
    assert Path("/etc/passwd").exists()


async def test_kill_ends_the_children_too(make_renderer: MakeRenderer) -> None:
    comfyui = make_renderer()
    await comfyui.renderer.open()
    pid = comfyui.process.pid
    await comfyui.renderer.close()
    assert not is_running(pid)
    await comfyui.renderer.close()


async def test_comfyui_that_died_between_jobs_is_started_for_the_next(comfyui: RendererHarness) -> None:
    await comfyui.render(graphs.quick())
    os.kill(comfyui.process.pid, signal.SIGKILL)
    await comfyui.render(graphs.quick())
    assert comfyui.boots == 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_worker_for_comfyui_stays_small(standin_settings: MakeSettings) -> None:
    """Everything that it imports, RunPod's SDK included; the preview's libraries are not among it."""
    script = """
        import os, sys
        import runpod.serverless
        import gpu_endpoint.__main__
        import gpu_endpoint.renderers.comfyui
        [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
        print(int(line.split()[1]) // 1024, *({"numpy", "av"} & sys.modules.keys()))
    """
    measured = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True
    ).stdout.splitlines()[-1]
    assert int(measured.split()[0]) <= 150
    assert measured.split()[1:] == []


def test_renderers_are_chosen_by_name() -> None:
    assert RENDERERS.keys() == {"comfyui", "preview"}
    with pytest.raises(ValueError, match="COMFYUI_DIRECTORY"):
        RENDERERS["comfyui"]({})
