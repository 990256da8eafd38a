"""A stand-in for ComfyUI: its API, its habits and its traps, without models and without torch.

``main.py`` is started as ComfyUI's own is. What it answers is held against recorded shapes of the real one.
"""
