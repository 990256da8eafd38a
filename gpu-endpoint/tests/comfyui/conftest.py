"""A running stand-in, driven as the real one is."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpu_endpoint.renderers.comfyui.settings import ComfyUISettings

STAND_IN = Path(__file__).parent / "standin"


@pytest.fixture(scope="session")
def standin_settings(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ComfyUISettings]:
    """Settings of a worker whose ComfyUI is the stand-in: ``standin_settings("--standin-save-seconds", "1")``."""

    def make(*arguments: str, **changes: float) -> ComfyUISettings:
        return ComfyUISettings(
            checkout=STAND_IN,
            python=Path(sys.executable),
            work_directory=tmp_path_factory.mktemp("comfyui"),
            arguments=arguments,
            environment={"PATH": "/usr/bin:/bin"},
            **changes,
        )

    return make
