"""Small workflows in ComfyUI's API format. None needs a model but ``sampled``."""

import json
from pathlib import Path
from typing import Any

CATALOGUE = Path(__file__).parents[3] / "libs/catalogue/src/catalogue/models"

Graph = dict[str, Any]


def node(class_type: str, title: str | None = None, **inputs: Any) -> Graph:
    """One node, called by its class unless a title says otherwise."""
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title or class_type}}


def quick(prefix: str = "clip") -> Graph:
    """A black clip of four frames."""
    return {
        "1": node("EmptyImage", width=64, height=64, batch_size=4, color=0),
        "2": node("CreateVideo", images=["1", 0], fps=8.0),
        "3": node("SaveVideo", "Save", video=["2", 0], filename_prefix=prefix, format="mp4", codec="h264"),
    }


def picture(prefix: str = "picture", **save: Any) -> Graph:
    """A black picture."""
    return {
        "1": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
        "2": node("SaveImage", "Save", images=["1", 0], filename_prefix=prefix, **save),
    }


def slow(scales: int = 12) -> Graph:
    """A clip after many slow nodes, between which an interrupt is heard."""
    graph = quick("slow")
    graph["1"]["inputs"] |= {"width": 1024, "height": 1024, "color": 7}
    source = "1"
    for number in range(scales):
        scale = {"width": 1024 + 8 * number, "height": 1024, "upscale_method": "lanczos", "crop": "disabled"}
        graph[f"1{number:02}"] = node("ImageScale", f"Scale {number}", image=[source, 0], **scale)
        source = f"1{number:02}"
    graph["2"]["inputs"]["images"] = [source, 0]
    return graph


def loading(name: str) -> Graph:
    """A picture of an input."""
    return {
        "1": node("LoadImage", "First frame", image=name),
        "2": node("SaveImage", "Save", images=["1", 0], filename_prefix="loaded"),
    }


def trapped(trap: str, *, to_the_end: bool = False, **inputs: Any) -> Graph:
    """A clip with a trap of the stand-in's after its first node, or one that is an output by itself."""
    graph = quick()
    if to_the_end:
        return graph | {"9": node("TrapOutput", "Trap", trap=trap, **inputs)}
    graph["9"] = node("Trap", "Trap", trap=trap, image=["1", 0], **inputs)
    graph["2"]["inputs"]["images"] = ["9", 0]
    return graph


SMALLEST = (256, 256, 5)
"""Width, height and frames."""


def sampled(seed: int = 0, steps: int = 4, size: tuple[int, int, int] = SMALLEST) -> Graph:
    """The catalogue's own text to video, as small as it gets, or of that width, height and number of frames."""
    width, height, frames = size
    graph: Graph = json.loads((CATALOGUE / "wan-2.2-t2v/workflow.json").read_text())
    for part in graph.values():
        inputs = part["inputs"]
        if "length" in inputs:
            inputs |= {"width": width, "height": height, "length": frames}
        if "noise_seed" in inputs:
            inputs |= {"noise_seed": seed, "steps": steps}
            inputs |= {"end_at_step": steps // 2} if inputs["start_at_step"] == 0 else {"start_at_step": steps // 2}
    return graph
