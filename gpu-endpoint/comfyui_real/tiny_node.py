"""A custom node file for a real ComfyUI: what tiny weights alone cannot make small.

Copied into ``custom_nodes``. The loader nodes stay ComfyUI's own, so that file names are still validated.
Text encoders whose smallest model is too large turn a text into numbers of the right shape, the same ones for the same
text. A Z-Image model that says its size in its file is built in that size: ComfyUI itself knows but one.
A save lasts as much longer as the file ``save_seconds`` of the base directory says, if it is there: a tiny clip is
saved before anybody could cancel it. ``step_seconds`` and ``decode_seconds`` prolong each step of a sampler and each
decoding in the same way, for a GPU, which is done with tiny weights before anybody could see it work.
``TrapOutput`` has two of the traps of the stand-in's node of that name, for the benchmark of the worker.
``BreakContext`` lets a kernel on the GPU fail, so that ComfyUI's process can compute nothing any more.
"""

import hashlib
import json
import os
import time
from pathlib import Path

import comfy.model_detection
import comfy.supported_models
import folder_paths
import latent_preview
import nodes
import torch

WIDTHS = {"ltxv": 768, "flux": 64, "lumina2": 64}
TOKENS = 32
POOLED_WIDTH = 768


class TinyEncoder:
    """What a text-encoding node asks of a text encoder."""

    def __init__(self, width):
        self.width = width

    def tokenize(self, text, **_):
        """The text is its own token."""
        return text

    def encode_from_tokens_scheduled(self, text, **_):
        """One conditioning."""
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big"))
        conditioning = torch.randn(1, TOKENS, self.width, generator=generator)
        pooled = torch.randn(1, POOLED_WIDTH, generator=generator)
        return [[conditioning, {"pooled_output": pooled, "attention_mask": torch.ones(1, TOKENS, dtype=torch.long)}]]


def wrap(loader):
    """Let a loader node answer for the types in WIDTHS with a tiny encoder."""
    original = loader.load_clip

    def load_clip(self, *arguments, **named):
        width = WIDTHS.get(named.get("type"))
        return (TinyEncoder(width),) if width is not None else original(self, *arguments, **named)

    loader.load_clip = load_clip


def size_by_file(detection):
    """Let a Z-Image model's file say how large the model is, as the files of Wan and LTX may."""
    original = detection.model_config_from_unet

    def model_config_from_unet(*arguments, metadata=None, **named):
        if metadata and "tiny_z_image" in metadata:
            return comfy.supported_models.ZImage(json.loads(metadata["tiny_z_image"]))
        return original(*arguments, metadata=metadata, **named)

    detection.model_config_from_unet = model_config_from_unet


def last_longer(what):
    """As long as the file of this name says."""
    seconds = Path(folder_paths.base_path, f"{what}_seconds")
    time.sleep(float(seconds.read_text()) if seconds.exists() else 0.0)


def prolong_saves(save):
    """Let a save last longer: its file is there, and it hears no interrupt, as a codec hears none."""
    original = save.execute.__func__

    def execute(cls, *arguments, **named):
        saved = original(cls, *arguments, **named)
        last_longer("save")
        return saved

    save.execute = classmethod(execute)


def prolong_steps(previews):
    """Let each step of a sampler last longer: it is told first, and the sampler hears an interrupt afterwards."""
    original = previews.prepare_callback

    def prepare_callback(*arguments, **named):
        tell = original(*arguments, **named)

        def callback(*step):
            tell(*step)
            last_longer("step")

        return callback

    previews.prepare_callback = prepare_callback


def prolong_decoding(decoder):
    """Let decoding last longer: the model begins late, and it is the model that hears an interrupt."""
    original = decoder.decode

    def decode(self, *arguments, **named):
        last_longer("decode")
        return original(self, *arguments, **named)

    decoder.decode = decode


size_by_file(comfy.model_detection)
prolong_saves(nodes.NODE_CLASS_MAPPINGS["SaveVideo"])
prolong_steps(latent_preview)
prolong_decoding(nodes.NODE_CLASS_MAPPINGS["VAEDecode"])
for name in ("CLIPLoader", "DualCLIPLoader"):
    wrap(nodes.NODE_CLASS_MAPPINGS[name])


class TrapOutput:
    """Deaf for an hour, or a large file."""

    RETURN_TYPES = ()
    FUNCTION = "spring"
    OUTPUT_NODE = True
    CATEGORY = "tiny"

    @classmethod
    def INPUT_TYPES(cls):
        """What it takes."""
        return {"required": {"trap": ("STRING", {})}, "optional": {"bytes": ("INT", {"max": 2**40})}}

    def spring(self, trap, bytes=0):
        """Do it."""
        if trap == "deaf":
            time.sleep(3600)
        path = Path(folder_paths.get_output_directory(), "large.mp4")
        path.touch()
        os.truncate(path, bytes)
        return {"ui": {"images": [{"filename": path.name, "subfolder": "", "type": "output"}]}}


class BreakContext:
    """Passes latents on, after a kernel was launched that fails: whatever uses the GPU next hears of it."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "launch"
    CATEGORY = "tiny"

    @classmethod
    def INPUT_TYPES(cls):
        """What it takes."""
        return {"required": {"samples": ("LATENT",)}}

    def launch(self, samples):
        """Look up the hundredth of eight numbers, where nobody can refuse to."""
        torch.zeros(8, device="cuda")[torch.full((1,), 99, device="cuda")]
        return (samples,)


NODE_CLASS_MAPPINGS = {"TrapOutput": TrapOutput, "BreakContext": BreakContext}
