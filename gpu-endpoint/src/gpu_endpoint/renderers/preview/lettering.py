"""Text on translucent panels: wrapped, and as large as its panel lets it be."""

import bisect
import functools
from collections.abc import Callable
from typing import Final

from PIL import Image, ImageDraw, ImageFont

_SMALLEST_SIZE: Final = 9
_LINE_HEIGHT: Final = 1.25

Colour = tuple[int, int, int]


@functools.lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own scalable font. ``size`` in pixels."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return found


def lettered_panel(
    text: str,
    *,
    size: int,
    width: int,
    height: int,
    ink: Colour = (255, 255, 255),
    paper: Colour = (0, 0, 0),
    footer: str = "",
) -> Image.Image:
    """An RGBA panel of at most ``width`` × ``height`` pixels with ``text`` wrapped in it.

    Letters are ``size`` pixels high, or smaller if that makes the text fit; what does not fit at the smallest size is
    cut with an ellipsis. ``footer`` stands below in small letters, if there is room.
    """
    padding = max(3, size // 3)
    room = max(1, width - 2 * padding)
    small = font(max(_SMALLEST_SIZE, size // 2))
    if footer:
        footer = _cut(footer, small, room)
    footer_height = round(small.size * _LINE_HEIGHT) if footer else 0
    lines, letters = _fit(_printable(text), size, room, max(1, height - 2 * padding - footer_height))
    line_height = round(letters.size * _LINE_HEIGHT)
    longest = max((letters.getlength(line) for line in lines), default=0)
    if footer:
        longest = max(longest, small.getlength(footer))
    panel_size = (
        min(width, int(longest) + 2 * padding + 1),
        min(height, len(lines) * line_height + footer_height + 2 * padding),
    )
    panel = Image.new("RGBA", panel_size, (*paper, 170 if paper == (0, 0, 0) else 235))
    draw = ImageDraw.Draw(panel)
    for number, line in enumerate(lines):
        draw.text((padding, padding + number * line_height), line, font=letters, fill=(*ink, 255))
    if footer:
        draw.text((padding, panel_size[1] - padding - footer_height), footer, font=small, fill=(*ink, 200))
    return panel


def _fit(text: str, size: int, width: int, height: int) -> tuple[list[str], ImageFont.FreeTypeFont]:
    """The lines at the largest size at which they fit; at the smallest, cut, if they fit at none."""

    def fits(candidate: int) -> bool:
        return len(_wrapped(text, font(candidate), width)) * round(candidate * _LINE_HEIGHT) <= height

    sizes = range(size, _SMALLEST_SIZE, -2)
    # Smaller letters need less room, so the first size that fits can be found by halving.
    first = bisect.bisect_left(sizes, True, key=fits)
    if first < len(sizes):
        return _wrapped(text, font(sizes[first]), width), font(sizes[first])
    letters = font(_SMALLEST_SIZE)
    lines = _wrapped(text, letters, width)
    allowed = max(1, height // round(_SMALLEST_SIZE * _LINE_HEIGHT))
    if len(lines) > allowed:
        lines = [*lines[: allowed - 1], _cut(f"{lines[allowed - 1]} …", letters, width)]
    return lines, letters


def _wrapped(text: str, letters: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of whole words. Each word is measured once; what kerning does between words is less than a pixel."""
    space = letters.getlength(" ")
    lengths: dict[str, float] = {}
    lines: list[str] = []
    line, reached = "", 0.0
    for word in text.split(" "):
        if word not in lengths:
            lengths[word] = letters.getlength(word)
        length = lengths[word]
        if line and reached + space + length <= width:
            line, reached = f"{line} {word}", reached + space + length
            continue
        if line:
            lines.append(line)
        *full, line = _broken(word, letters, width) if length > width else [word]
        lines.extend(full)
        reached = letters.getlength(line) if full else length
    return [*lines, line]


def _broken(word: str, letters: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The word in pieces that fit on a line each."""
    most = 2 + int(6 * width / letters.size)  # no letter is narrower than a sixth of its height

    def fitting(rest: str) -> int:
        return max(1, _most(min(most, len(rest)), lambda count: letters.getlength(rest[:count]) <= width))

    pieces = []
    while word:
        count = fitting(word)
        pieces.append(word[:count])
        word = word[count:]
    return pieces


def _cut(text: str, letters: ImageFont.FreeTypeFont, width: int) -> str:
    if letters.getlength(text) <= width:
        return text
    text = text.rstrip("… ")
    return f"{text[: _most(len(text), lambda count: letters.getlength(f'{text[:count]}…') <= width)]}…"


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest count up to ``limit`` that fits, 0 if none does."""
    return bisect.bisect_left(range(1, limit + 1), True, key=lambda count: not fits(count))


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
