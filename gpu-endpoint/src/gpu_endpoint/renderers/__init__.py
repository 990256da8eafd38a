"""What turns a job into a file. A new renderer is a class that satisfies ``Renderer`` and a line in ``RENDERERS``."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Final

from gpu_endpoint.renderers.renderer import RenderedFile, Renderer

__all__ = ["RENDERERS", "RenderedFile", "Renderer"]

Environment = Mapping[str, str]


# A worker imports the renderer that it runs and no other: the two need different libraries, and memory for them.
def _preview(_: Environment) -> Renderer:
    from gpu_endpoint.renderers.preview import PreviewRenderer

    return PreviewRenderer()


def _comfyui(environment: Environment) -> Renderer:
    from gpu_endpoint.model_store import ModelStore, ModelStoreSettings
    from gpu_endpoint.renderers.comfyui import ComfyUIRenderer, ComfyUISettings

    settings = ComfyUISettings.from_environment(environment)
    store_settings = ModelStoreSettings.from_environment(environment)
    if store_settings is None:
        return ComfyUIRenderer(settings)
    models = ModelStore(store_settings, settings.work_directory / "models")
    return ComfyUIRenderer(dataclasses.replace(settings, arguments=(*settings.arguments, *models.arguments)), models)


RENDERERS: Final[Mapping[str, Callable[[Environment], Renderer]]] = {"comfyui": _comfyui, "preview": _preview}
"""By the value of the environment variable ``RENDERER``. Each is built from the environment; raises ValueError."""
