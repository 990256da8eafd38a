"""Checks against a real ComfyUI: ``make comfyui-real COMFYUI=<checkout>``. They are not part of ``make test``."""
