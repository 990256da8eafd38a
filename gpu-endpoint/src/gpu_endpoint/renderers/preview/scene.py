"""What a preview shows: slow coloured waves (or the input picture, drifting), the prompt, and that it is a preview."""

import hashlib
import math
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from gpu_endpoint.failures import InvalidInput
from gpu_endpoint.pictures import MAX_PICTURE_PIXELS, opened_picture, upright
from gpu_endpoint.renderers.preview.lettering import font, lettered_panel
from gpu_endpoint.renderers.preview.parameters import PreviewParameters

_COARSENESS: Final = 8
"""The waves are computed on every eighth pixel and enlarged smoothly: a fiftieth of the work, the same look."""

_WAVES: Final = 5
_DRIFT: Final = 0.08
"""How much larger than the frame a drifting picture is, so that it has room to move."""


def open_input(path: Path) -> Image.Image:
    """The input picture, upright and in RGB, or the first frame of a clip.

    Raises InvalidInput if it is none, or too large.
    """
    return _first_frame(path) if path.suffix == ".mp4" else _open_picture(path)


def _first_frame(path: Path) -> Image.Image:
    try:
        with av.open(str(path), options={"max_pixels": str(MAX_PICTURE_PIXELS)}) as container:
            return Image.fromarray(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    except Exception as error:
        # A file from outside makes a parser raise anything: that is an answer about the file.
        raise InvalidInput(f"{path.name} is not a readable clip") from error


def _open_picture(path: Path) -> Image.Image:
    with opened_picture(path) as picture:
        return upright(picture).convert("RGB")


class Scene:
    """Draws any frame. Everything that stays the same is prepared once."""

    def __init__(self, parameters: PreviewParameters, model_id: str, background: Image.Image | None) -> None:
        self.width = parameters.width
        self.height = parameters.height
        self._frames = parameters.frames
        self._frame_rate = parameters.frame_rate
        self._motion = (
            _Waves(parameters) if background is None else _Drift(background, parameters.width, parameters.height)
        )
        self._panels = _panels(parameters, model_id)
        self._small_font = font(max(9, self.height // 32))

    def frame(self, number: int) -> Image.Image:
        """Frame ``number``, counted from 0, as RGB."""
        seconds = float(number / self._frame_rate)
        image = self._motion.at(seconds)
        for position, panel in self._panels:
            image.paste(panel, position, panel)
        if self._frames > 1:
            self._draw_clock(image, number, seconds)
        return image

    def _draw_clock(self, image: Image.Image, number: int, seconds: float) -> None:
        draw = ImageDraw.Draw(image)
        bar = max(2, self.height // 120)
        reached = round(self.width * (number + 1) / self._frames)
        draw.rectangle((0, self.height - bar, reached, self.height), fill=(255, 214, 10))
        margin = max(4, self.width // 60)
        draw.text(
            (self.width - margin, margin),
            f"{seconds:05.2f} s  {number + 1}/{self._frames}",
            font=self._small_font,
            anchor="ra",
            fill=(255, 255, 255),
            stroke_width=1,
            stroke_fill=(0, 0, 0),
        )


class _Waves:
    """Plane waves in directions, speeds and colours taken from the prompt and the seed."""

    def __init__(self, parameters: PreviewParameters) -> None:
        self._size = (parameters.width, parameters.height)
        columns = max(4, parameters.width // _COARSENESS)
        rows = max(4, parameters.height // _COARSENESS)
        seed = hashlib.sha256(f"{parameters.seed}\n{parameters.prompt}\n{parameters.negative_prompt}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(seed[:8], "big"))
        aspect = columns / rows
        x, y = np.meshgrid(np.linspace(0, aspect, columns, dtype=np.float32), np.linspace(0, 1, rows, dtype=np.float32))
        angles = random.uniform(0, 2 * math.pi, _WAVES)
        lengths = random.uniform(0.6, 2.2, _WAVES)
        self._phases = [
            (2 * math.pi * length * (math.cos(angle) * x + math.sin(angle) * y)).astype(np.float32)
            for angle, length in zip(angles, lengths, strict=True)
        ]
        self._offsets = random.uniform(0, 2 * math.pi, _WAVES)
        self._speeds = random.uniform(0.6, 1.8, _WAVES) * random.choice([-1.0, 1.0], _WAVES)
        self._palette = _palette(random)

    def at(self, seconds: float) -> Image.Image:
        field = sum(
            np.sin(phase + np.float32(offset + speed * seconds))
            for phase, offset, speed in zip(self._phases, self._offsets, self._speeds, strict=True)
        )
        shades = ((field / _WAVES + 1) * 127.5).astype(np.uint8)
        return Image.fromarray(self._palette[shades]).resize(self._size, Image.Resampling.BICUBIC)


class _Drift:
    """The picture, filling the frame, moving slowly on an ellipse."""

    def __init__(self, picture: Image.Image, width: int, height: int) -> None:
        self._room = (round(width * _DRIFT), round(height * _DRIFT))
        self._size = (width, height)
        larger = (width + self._room[0], height + self._room[1])
        self._picture = ImageOps.fit(picture, larger, Image.Resampling.LANCZOS)

    def at(self, seconds: float) -> Image.Image:
        left = round(self._room[0] * (0.5 + 0.5 * math.sin(seconds * 1.3)))
        top = round(self._room[1] * (0.5 - 0.5 * math.cos(seconds * 0.9)))
        return self._picture.crop((left, top, left + self._size[0], top + self._size[1]))


def _palette(random: np.random.Generator) -> NDArray[Any]:
    """256 colours along a smooth closed curve, not too bright for white letters."""
    along = np.linspace(0, 1, 256)[:, None]
    shifts = random.uniform(0, 1, 3)
    rates = random.uniform(0.5, 1.2, 3)
    return (40 + 85 * (1 + np.cos(2 * math.pi * (along * rates + shifts)))).astype(np.uint8)


def _panels(parameters: PreviewParameters, model_id: str) -> list[tuple[tuple[int, int], Image.Image]]:
    """The label in the upper left corner and the prompt at the bottom, with their positions."""
    width, height = parameters.width, parameters.height
    margin = max(4, width // 60)
    label = lettered_panel(
        "PREVIEW", size=max(10, height // 14), width=width // 2, height=height // 4, ink=(0, 0, 0), paper=(255, 214, 10)
    )
    facts = f"{model_id} · seed {parameters.seed} · {width} x {height}"
    prompt = lettered_panel(
        parameters.prompt or "(no prompt)",
        size=max(11, height // 16),
        width=width - 2 * margin,
        height=int(height * 0.45),
        footer=facts,
    )
    bottom = height - prompt.height - margin - max(2, height // 120)
    return [((margin, margin), label), ((margin, max(0, bottom)), prompt)]
