"""The renderer for GPUs: ComfyUI as a process of its own, driven over its HTTP API and its socket."""

from gpu_endpoint.renderers.comfyui.renderer import ComfyUIRenderer
from gpu_endpoint.renderers.comfyui.settings import ComfyUISettings

__all__ = ["ComfyUIRenderer", "ComfyUISettings"]
