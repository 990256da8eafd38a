"""What turns a job into a file. A new renderer is a class that satisfies ``Renderer`` and a line in ``RENDERERS``."""

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
    from gpu_endpoint.renderers.comfyui import ComfyUIRenderer, ComfyUISettings

    return ComfyUIRenderer(ComfyUISettings.from_environment(environment))


RENDERERS: Final[Mapping[str, Callable[[Environment], Renderer]]] = {"comfyui": _comfyui, "preview": _preview}
"""By the value of the environment variable ``RENDERER``. Each is built from the environment; raises ValueError."""
