"""Notices a JPEG that ends between two of its scans.

Decoders show such a file without any error: coarse, or grey, because the scans that would refine it are not there.
Markers and scan headers are those of ITU-T T.81, annex B.
"""

import re
from typing import Final

_START_OF_SCAN: Final = 0xDA
_END_OF_IMAGE: Final = 0xD9
_FRAME_HEADERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_MARKER: Final = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""Within coded data 0xff is followed by a zero byte, and restart markers belong to it."""
_COEFFICIENTS: Final = 64


def ends_between_scans(body: bytes) -> bool:
    """Whether the file says nowhere that it ends, and coefficients of a component did not come with all their bits."""
    missing: set[tuple[int, int]] = set()
    progressive = False
    position = 0
    while found := _MARKER.search(body, position):
        marker, position = found[1][0], found.end()
        if marker == _END_OF_IMAGE:
            return False
        if marker in _STANDALONE:
            continue
        length = int.from_bytes(body[position : position + 2])
        segment = body[position + 2 : position + length]
        position += length
        if marker in _FRAME_HEADERS and len(segment) > 5:
            progressive = marker in _PROGRESSIVE
            missing = {(component, index) for component in segment[6::3] for index in range(_COEFFICIENTS)}
        elif marker == _START_OF_SCAN and len(segment) >= 4:
            components = segment[1 : 1 + 2 * segment[0] : 2]
            first, last, bits = segment[-3:] if progressive else (0, _COEFFICIENTS - 1, 0)
            # The low half is the number of low bits that later scans bring.
            if bits & 0x0F == 0:
                missing -= {(component, index) for component in components for index in range(first, last + 1)}
    return bool(missing)
