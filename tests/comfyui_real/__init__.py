"""The whole platform with a real ComfyUI behind its worker: ``make comfyui-real COMFYUI=<checkout>``."""
