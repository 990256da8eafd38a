"""The start of a worker: models are looked after while ComfyUI starts, and warmed up before the first job."""

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpu_endpoint.failures import WorkerMisconfigured
from gpu_endpoint.model_store import ModelStore, ModelStoreSettings
from gpu_endpoint.provision.manifest import Manifest, ModelFile
from gpu_endpoint.renderers import RENDERERS
from gpu_endpoint.renderers.comfyui import ComfyUIRenderer, launcher
from tests.comfyui import graphs
from tests.comfyui.conftest import STAND_IN, RendererHarness
from tests.conftest import until
from tests.test_provision import weights

MakeRenderer = Callable[..., RendererHarness]


@pytest.fixture
def start(
    make_renderer: MakeRenderer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Callable[..., RendererHarness]:
    """A renderer with a volume of one file for each of the models a, b and c, and a warm-up of each."""
    caplog.set_level(logging.INFO)
    models: dict[str, tuple[ModelFile, ...]] = {
        name: (ModelFile(folder="vae", name=f"{name}.safetensors", url="http://x/"),) for name in "abc"
    }
    manifest = tmp_path / "models.json"
    manifest.write_bytes(msgspec.json.encode(Manifest(models=models)))
    (tmp_path / "volume/vae").mkdir(parents=True)
    for name in models:
        (tmp_path / f"volume/vae/{name}.safetensors").write_bytes(weights(1))

    def make(warm_ups: dict[str, Any], **changes: Any) -> RendererHarness:
        path = tmp_path / "warm_ups.json"
        path.write_bytes(msgspec.json.encode(warm_ups))
        settings = ModelStoreSettings(
            volume=tmp_path / "volume",
            local=tmp_path / "local",
            manifest=manifest,
            lock=tmp_path / "lock.json",
            warm_ups=path,
            **changes,
        )
        harness = make_renderer(stop_seconds=0.3)
        harness.renderer = ComfyUIRenderer(harness.settings, ModelStore(settings, tmp_path / "work"))
        return harness

    return make


def order(workflow: dict[str, Any], extension: str = "mp4", images: tuple[str, ...] = ()) -> dict[str, Any]:
    """A warm-up."""
    return {"kind": "video", "extension": extension, "workflow": workflow, "images": images}


def events(caplog: pytest.LogCaptureFixture, *names: str) -> list[tuple[str, Any]]:
    """Those log events, each with its model."""
    return [
        (record.getMessage(), vars(record).get("model")) for record in caplog.records if record.getMessage() in names
    ]


WARM_UP_EVENTS = ("model_warmed_up", "warm_up_failed", "warm_up_skipped")


async def test_pinned_models_are_copied_and_warmed_up_before_the_first_job(
    start: Callable[..., RendererHarness], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    warm_ups = {"a": order(graphs.loading("image.png"), "png", ("image.png",)), "b": order(graphs.quick())}
    comfyui = start(warm_ups, pinned=("b", "a", "c"))
    await comfyui.renderer.open()
    assert events(caplog, *WARM_UP_EVENTS) == [
        ("model_warmed_up", "b"),
        ("model_warmed_up", "a"),
        ("warm_up_skipped", "c"),
    ]
    assert (tmp_path / "local/vae/b.safetensors").is_file()
    await comfyui.expect_nothing_left()


async def test_a_warm_up_that_fails_does_not_stop_the_others(
    start: Callable[..., RendererHarness], caplog: pytest.LogCaptureFixture
) -> None:
    comfyui = start({"a": order(graphs.trapped("raise")), "b": order(graphs.quick())}, pinned=("a", "b"))
    await comfyui.renderer.open()
    assert events(caplog, *WARM_UP_EVENTS) == [("warm_up_failed", "a"), ("model_warmed_up", "b")]


async def test_a_warm_up_that_hangs_ends_with_the_time_for_the_start(
    start: Callable[..., RendererHarness], caplog: pytest.LogCaptureFixture
) -> None:
    comfyui = start({"a": order(graphs.trapped("deaf"))}, pinned=("a",), start_seconds=0.5)
    await comfyui.renderer.open()
    assert events(caplog, *WARM_UP_EVENTS) == [("warm_up_failed", "a")]
    await comfyui.render(graphs.quick())


async def test_without_a_pinned_model_a_job_need_not_wait_for_copies(
    start: Callable[..., RendererHarness], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    comfyui = start({}, bytes_per_second=1000)
    await comfyui.renderer.open()
    assert events(caplog, *WARM_UP_EVENTS) == [("warm_up_skipped", None)]
    assert len(list((tmp_path / "local").rglob("*.safetensors"))) < 3
    await comfyui.render(graphs.quick())


async def test_a_worker_without_a_usable_model_does_not_start(
    start: Callable[..., RendererHarness], tmp_path: Path
) -> None:
    for path in (tmp_path / "volume/vae").iterdir():
        path.unlink()
    comfyui = start({})
    with pytest.raises(WorkerMisconfigured, match=r"no model is usable: a: vae/a\.safetensors is missing"):
        await comfyui.renderer.open()


async def test_a_model_that_a_job_used_is_copied_afterwards(
    start: Callable[..., RendererHarness], tmp_path: Path
) -> None:
    size = len(weights(1))
    comfyui = start({}, local_bytes=size, parallel=1)
    await comfyui.renderer.open()
    await until(lambda: (tmp_path / "local/vae/a.safetensors").is_file())
    graph = graphs.quick()
    graph["1"]["inputs"]["vae_name"] = "c.safetensors"
    await comfyui.render(graph)
    await until(lambda: (tmp_path / "local/vae/c.safetensors").is_file())
    assert not (tmp_path / "local/vae/a.safetensors").exists()


def test_the_environment_gives_comfyui_the_paths_of_the_models(tmp_path: Path) -> None:
    manifest = tmp_path / "models.json"
    manifest.write_bytes(msgspec.json.encode(Manifest(models={})))
    environment = {
        "COMFYUI_DIRECTORY": str(STAND_IN),
        "COMFYUI_PYTHON": "/bin/sh",
        "COMFYUI_WORK_DIRECTORY": str(tmp_path),
        "COMFYUI_ARGUMENTS": "--cpu",
        "MODELS_DIRECTORY": "/runpod-volume/models",
        "MODELS_MANIFEST": str(manifest),
    }
    renderer = RENDERERS["comfyui"](environment)
    assert isinstance(renderer, ComfyUIRenderer)
    paths = str(tmp_path / "models/extra_model_paths.yaml")
    assert renderer._settings.arguments == ("--cpu", "--extra-model-paths-config", paths)


async def test_garbage_is_collected_again_once_comfyui_serves(comfyui: RendererHarness) -> None:
    port = int(comfyui.process.url.rsplit(":", 1)[1])
    gc.disable()
    try:
        launcher._collect_once_it_serves(port)
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.enable()
        gc.unfreeze()
