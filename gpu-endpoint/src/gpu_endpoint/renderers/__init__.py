"""What turns a job into a file. A new renderer is a class that satisfies ``Renderer`` and a line in ``RENDERERS``."""

from collections.abc import Callable, Mapping
from typing import Final

from gpu_endpoint.renderers.preview import PreviewRenderer
from gpu_endpoint.renderers.renderer import RenderedFile, Renderer

__all__ = ["RENDERERS", "RenderedFile", "Renderer"]

RENDERERS: Final[Mapping[str, Callable[[], Renderer]]] = {"preview": PreviewRenderer}
"""By the value of the environment variable ``RENDERER``."""
