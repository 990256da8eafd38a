"""The stand-in answers as a real ComfyUI did when its shapes were recorded."""

import json
from collections.abc import Callable
from pathlib import Path

from gpu_endpoint.renderers.comfyui.process import ComfyUIProcess
from gpu_endpoint.renderers.comfyui.settings import ComfyUISettings
from tests.comfyui.shapes import observe

RECORDED = json.loads(Path(__file__).with_name("recorded_shapes.json").read_text())


async def test_stand_in_has_the_shapes_of_a_real_comfyui(standin_settings: Callable[..., ComfyUISettings]) -> None:
    process = ComfyUIProcess(standin_settings("--cpu", "--standin-step-seconds", "0.02"))
    try:
        await process.ready()
        seen = await observe(process.url)
    finally:
        await process.kill()
    assert seen.keys() == RECORDED.keys()
    assert {name: value for name, value in seen.items() if value != RECORDED[name]} == {}
