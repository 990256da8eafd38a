"""The nodes that the stand-in has: what they demand, how long they take, what they write."""

import asyncio
import hashlib
import io
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from tests.comfyui.standin.settings import StandInSettings


def _jpeg() -> bytes:
    """As large as a sampler's preview gets."""
    encoded = io.BytesIO()
    Image.linear_gradient("L").resize((512, 288)).convert("RGB").save(encoded, "JPEG", quality=95)
    return encoded.getvalue()


PREVIEW_JPEG = _jpeg()


class Interrupted(Exception):
    """The prompt was cancelled."""


class NodeError(Exception):
    """A node fails with an exception of this type."""

    def __init__(self, exception_type: str, message: str) -> None:
        super().__init__(message)
        self.exception_type = exception_type


class Running(Protocol):
    """What a node is given while it runs."""

    settings: StandInSettings
    prompt: dict[str, Any]

    def check(self) -> None:
        """Raises Interrupted."""

    def step(self, value: int, of: int, picture: bytes | None = None) -> None:
        """Say how far the node is."""

    def close_sockets(self) -> None:
        """Lose every connection."""

    def mute_sockets(self) -> None:
        """Say nothing to anybody any more, and leave the connections open."""

    def forget(self) -> None:
        """Know nothing of the prompt any more."""


Outputs = dict[str, Any] | None
Run = Callable[[Running, dict[str, Any]], Awaitable[Outputs]]


@dataclass(frozen=True)
class NodeClass:
    """``limits`` are of numbers, ``files`` of inputs that name a model file."""

    run: Run
    required: tuple[str, ...] = ()
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    output: bool = False


async def nothing(running: Running, _: dict[str, Any]) -> Outputs:
    """A node that takes no time."""
    running.check()
    return None


async def scale(running: Running, _: dict[str, Any]) -> Outputs:
    """A node that takes a step's time, between two looks for an interrupt."""
    running.check()
    await asyncio.sleep(running.settings.step_seconds)
    return None


async def sample(running: Running, inputs: dict[str, Any]) -> Outputs:
    """As many steps as asked for, each with a preview."""
    steps = min(int(inputs["steps"]), int(inputs.get("end_at_step", 10_000))) - int(inputs.get("start_at_step", 0))
    for number in range(steps):
        running.check()
        await asyncio.sleep(running.settings.step_seconds)
        running.step(number + 1, steps, PREVIEW_JPEG)
    return None


async def load_image(running: Running, inputs: dict[str, Any]) -> Outputs:
    """Fails for what is no picture, as Pillow does."""
    content = (running.settings.input_directory / inputs["image"]).read_bytes()
    if not content.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        raise NodeError("PIL.UnidentifiedImageError", f"cannot identify image file '{inputs['image']}'")
    return None


async def save_video(running: Running, inputs: dict[str, Any]) -> Outputs:
    """Deaf to interrupts; a kill leaves 48 bytes under the final name."""
    path = free_path(running.settings.output_directory, inputs["filename_prefix"], "mp4")
    path.write_bytes(b"\0\0\0\x20ftypisom".ljust(48, b"\0"))
    await asyncio.sleep(running.settings.save_seconds)
    _write(running, path)
    return named(path, running.settings) | {"animated": [True]}


async def save_image(running: Running, inputs: dict[str, Any]) -> Outputs:
    """Writes at once."""
    path = free_path(running.settings.output_directory, inputs["filename_prefix"], "png")
    _write(running, path)
    return named(path, running.settings)


async def preview_image(running: Running, _: dict[str, Any]) -> Outputs:
    """Writes a temporary file."""
    path = free_path(running.settings.temp_directory, "ComfyUI_temp", "png")
    path.write_bytes(b"\x89PNG temporary")
    return {"images": [{"filename": path.name, "subfolder": "", "type": "temp"}]}


async def trap(running: Running, inputs: dict[str, Any]) -> Outputs:
    """What a driver must survive. It springs ``times`` times (0: always), counted over restarts."""
    if not _springs(running.settings.user_directory, inputs):
        return None
    running.check()
    match inputs["trap"]:
        case "raise":
            raise NodeError(inputs["exception_type"], inputs["message"])
        case "die":
            os.kill(os.getpid(), inputs["signal"])
        case "hang":
            time.sleep(3600)  # noqa: ASYNC251 - nothing of the process goes on
        case "deaf":
            await asyncio.sleep(3600)
        case "wait":
            while True:
                running.check()
                await asyncio.sleep(0.01)
        case "forget":
            running.forget()
        case "lose_sockets":
            running.close_sockets()
        case "mute_sockets":
            running.mute_sockets()
        case "large":
            path = free_path(running.settings.output_directory, "large", "mp4")
            path.touch()
            os.truncate(path, inputs["bytes"])
            return named(path, running.settings)
        case "outputs":
            return _made_up(running.settings.output_directory, inputs)
        case other:
            raise NodeError("ValueError", f"no such trap: {other}")
    return None


def _springs(counters: Path, inputs: Mapping[str, Any]) -> bool:
    times = inputs.get("times", 0)
    if not times:
        return True
    counter = counters / f"trap-{inputs['name']}"
    sprung = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(sprung + 1))
    return bool(sprung < times)


def _made_up(directory: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs as the workflow states them; each ``output`` that says its ``content`` is written."""
    outputs: dict[str, Any] = json.loads(json.dumps(inputs["outputs"]))
    for items in outputs.values():
        for item in items:
            if isinstance(item, dict) and "content" in item:
                path = directory / item["subfolder"] / item["filename"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(item.pop("content"))
    return outputs


def free_path(directory: Path, prefix: str, extension: str) -> Path:
    """The first free numbered name."""
    folder = directory / Path(prefix).parent
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while (path := folder / f"{Path(prefix).name}_{number:05}_.{extension}").exists():
        number += 1
    return path


def named(path: Path, settings: StandInSettings) -> dict[str, Any]:
    """A file as history names it."""
    folder = path.parent.relative_to(settings.output_directory)
    subfolder = "" if folder == Path() else str(folder)
    return {"images": [{"filename": path.name, "subfolder": subfolder, "type": "output"}]}


def _write(running: Running, path: Path) -> None:
    """Bytes that depend on the workflow, as far as its pictures would; a large file is mostly a hole."""
    said = b"" if running.settings.disable_metadata else json.dumps(running.prompt).encode()
    digest = hashlib.sha256()
    for node in running.prompt.values():
        if node["class_type"] == "LoadImage":
            loaded = running.settings.input_directory / node["inputs"]["image"]
            digest.update(loaded.read_bytes() if loaded.exists() else b"")
        elif "filename_prefix" not in node["inputs"]:
            digest.update(json.dumps(node["inputs"]).encode())
    content = path.suffix.encode() + digest.digest() * 32 + said
    with path.open("wb") as file:
        file.write(content[: running.settings.file_bytes])
        file.truncate(running.settings.file_bytes)


def _loader(*files: str) -> NodeClass:
    return NodeClass(nothing, required=files, files=files)


PIXELS = {"width": (1, 16384), "height": (1, 16384), "batch_size": (1, 4096)}
STEPS = {"steps": (1, 10000)}

NODES: dict[str, NodeClass] = {
    "UNETLoader": _loader("unet_name"),
    "VAELoader": _loader("vae_name"),
    "CLIPLoader": _loader("clip_name"),
    "DualCLIPLoader": _loader("clip_name1", "clip_name2"),
    "CheckpointLoaderSimple": _loader("ckpt_name"),
    "LoraLoaderModelOnly": _loader("lora_name"),
    "LoadImage": NodeClass(load_image, required=("image",)),
    "EmptyImage": NodeClass(nothing, required=("width", "height", "batch_size"), limits=PIXELS),
    "EmptyHunyuanLatentVideo": NodeClass(nothing, required=("width", "height", "length"), limits=PIXELS),
    "WanImageToVideo": NodeClass(nothing, required=("width", "height", "length"), limits=PIXELS),
    "ImageScale": NodeClass(scale, required=("image", "width", "height"), limits=PIXELS),
    "ModelSamplingSD3": NodeClass(nothing, required=("model",)),
    "CLIPTextEncode": NodeClass(nothing, required=("text", "clip")),
    "KSamplerAdvanced": NodeClass(sample, required=("steps", "latent_image"), limits=STEPS),
    "KSampler": NodeClass(sample, required=("steps", "latent_image"), limits=STEPS),
    "VAEDecode": NodeClass(scale, required=("samples", "vae")),
    "VAEDecodeTiled": NodeClass(scale, required=("samples", "vae", "tile_size", "overlap")),
    "CreateVideo": NodeClass(nothing, required=("images", "fps")),
    "SaveVideo": NodeClass(save_video, required=("video", "filename_prefix"), output=True),
    "SaveImage": NodeClass(save_image, required=("images", "filename_prefix"), output=True),
    "PreviewImage": NodeClass(preview_image, required=("images",), output=True),
    "Trap": NodeClass(trap, required=("trap",)),
    "TrapOutput": NodeClass(trap, required=("trap",), output=True),
}
