"""A small picture that looks like one: the sun over the sea, as a PNG, without a library."""

import struct
import zlib
from typing import Final

WIDTH: Final = 832
HEIGHT: Final = 480
_HORIZON: Final = 300
_SUN: Final = (560, 260, 62)
_TOP, _GLOW, _SEA, _DEEP = (38, 28, 74), (250, 150, 70), (196, 98, 74), (18, 26, 48)

Colour = tuple[int, int, int]


def harbour() -> bytes:
    """The file."""
    rows = b"".join(b"\0" + _row(y) for y in range(HEIGHT))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _row(y: int) -> bytes:
    x, middle, radius = _SUN
    if y >= _HORIZON:
        water = _between(_SEA, _DEEP, (y - _HORIZON) / (HEIGHT - _HORIZON))
        # The sun's reflection is broken by the waves, and widens towards the viewer.
        wide = (30 + (y - _HORIZON) // 3) if (y // 7) % 2 else 0
        return _line(water, x - wide, x + wide, _GLOW)
    sky = _between(_TOP, _GLOW, (y / _HORIZON) ** 2)
    inside = radius**2 - (y - middle) ** 2
    half = int(inside**0.5) if inside > 0 else 0
    return _line(sky, x - half, x + half, (255, 232, 170))


def _line(colour: Colour, start: int, end: int, inner: Colour) -> bytes:
    return bytes(colour) * start + bytes(inner) * (end - start) + bytes(colour) * (WIDTH - end)


def _between(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
