"""The IPTC digital source type in a file, as XMP: the unsigned form of the mark, for tools that know no C2PA.

Pictures are copied, clips are changed in place. An XMP packet that was there before goes: two would contradict.
"""

import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final

from contracts.storage import DIGITAL_SOURCE_TYPE
from storage.errors import Unmarkable

PACKET: Final = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    f' Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
).encode()

_PNG_KEYWORD: Final = b"XML:com.adobe.xmp\0"
_MAX_PNG_TEXT_BYTES: Final = 1024 * 1024
"""A longer text is copied without a look at it."""
_MAX_PNG_CHUNK_BYTES: Final = 2**31 - 1
_JPEG_XMP: Final = (b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0")
_MP4_XMP: Final = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_MAX_INDEX_BYTES: Final = 16 * 1024 * 1024
"""An index of fragments at the end of a clip stays at the end, if it is not larger."""


def copy_png(source: BinaryIO, target: BinaryIO) -> None:
    """Copy a PNG with the packet behind its header, and with its pixels in one chunk. Raises ``Unmarkable``."""
    target.write(source.read(8))
    head = source.read(8)
    while len(head) == 8:
        length, name = int.from_bytes(head[:4]), head[4:]
        if name == b"IDAT":
            head = _copy_pixels(source, target, head)
            continue
        if name == b"iTXt" and length <= _MAX_PNG_TEXT_BYTES:
            body = source.read(length + 4)
            if not body.startswith(_PNG_KEYWORD):
                target.write(head + body)
        else:
            target.write(head)
            _copy(source, target, length + 4)
        if name == b"IHDR":
            body = b"iTXt" + _PNG_KEYWORD + b"\0\0\0\0" + PACKET
            target.write((len(body) - 4).to_bytes(4) + body + zlib.crc32(body).to_bytes(4))
        elif name == b"IEND":
            # What stands behind a picture is no part of it.
            return
        head = source.read(8)
    raise Unmarkable("the picture has no end")


def _copy_pixels(source: BinaryIO, target: BinaryIO, head: bytes) -> bytes:
    """Copy an IDAT chunk, which begins with ``head``, and those that follow it, as one. Returns the next chunk's head.

    Encoders write chunks of 4 to 64 KiB, and the library of the marks goes through all chunks several times.
    """
    begin, written, checksum = target.tell(), 0, zlib.crc32(b"IDAT")
    target.write(b"\0\0\0\0IDAT")
    while head[4:] == b"IDAT":
        length = int.from_bytes(head[:4])
        written += length
        if written > _MAX_PNG_CHUNK_BYTES:
            raise Unmarkable("the pixels are more than fit into one chunk")
        of_chunk = zlib.crc32(b"IDAT")
        for part in _parts(source, length):
            target.write(part)
            checksum, of_chunk = zlib.crc32(part, checksum), zlib.crc32(part, of_chunk)
        if source.read(4) != of_chunk.to_bytes(4):
            # A new checksum would hide it, and browsers show no such picture.
            raise Unmarkable("the pixels have a wrong checksum")
        head = source.read(8)
    target.write(checksum.to_bytes(4))
    target.seek(begin)
    target.write(written.to_bytes(4))
    target.seek(0, os.SEEK_END)
    return head


def copy_jpeg(source: BinaryIO, target: BinaryIO) -> None:
    """Copy a JPEG with the packet behind its first segments, JFIF and EXIF. Raises ``Unmarkable``."""
    target.write(source.read(2))
    written = False
    while True:
        marker = source.read(2)
        while marker == b"\xff\xff":
            marker = marker[:1] + source.read(1)
        if len(marker) < 2 or marker[0] != 0xFF:
            raise Unmarkable("the picture has a broken segment")
        is_application = marker[1] in (0xE0, 0xE1)
        if not is_application and not written:
            body = _JPEG_XMP[0] + PACKET
            target.write(b"\xff\xe1" + (len(body) + 2).to_bytes(2) + body)
            written = True
        if marker[1] == 0xDA:
            target.write(marker)
            shutil.copyfileobj(source, target)
            return
        length = source.read(2)
        body = source.read(max(0, int.from_bytes(length) - 2))
        if not (marker[1] == 0xE1 and body.startswith(_JPEG_XMP)):
            target.write(marker + length + body)


def copy_webp(source: BinaryIO, target: BinaryIO) -> None:
    """Copy a WebP with the packet behind its chunks. A simple one becomes an extended one. Raises ``Unmarkable``."""
    source.seek(12)
    first = source.read(18)
    name = first[:4]
    header = first[8:18] if name == b"VP8X" else _extended_header(name, first, source)
    target.write(b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<I", 10) + bytes([header[0] | 0x04]) + header[1:])
    end = source.seek(0, os.SEEK_END)
    source.seek(30 if name == b"VP8X" else 12)
    while source.tell() + 8 <= end:
        head = source.read(8)
        length = struct.unpack_from("<I", head, 4)[0]
        length += length % 2
        if head[:4] == b"XMP ":
            source.seek(length, os.SEEK_CUR)
        else:
            target.write(head)
            _copy(source, target, length)
    target.write(b"XMP " + struct.pack("<I", len(PACKET)) + PACKET + b"\0" * (len(PACKET) % 2))
    size = target.tell()
    target.seek(4)
    target.write(struct.pack("<I", size - 8))
    target.seek(size)


def _extended_header(name: bytes, first: bytes, source: BinaryIO) -> bytes:
    """The header that a simple WebP lacks: flags, and the size of the picture less one."""
    if name == b"VP8L":
        bits = int.from_bytes(first[9:13], "little")
        width, height, alpha = bits & 0x3FFF, (bits >> 14) & 0x3FFF, (bits >> 28) & 1
    elif name == b"VP8 ":
        source.seek(12 + 8 + 6)
        width, height = (size & 0x3FFF for size in struct.unpack("<HH", source.read(4)))
        width, height, alpha = width - 1, height - 1, 0
    else:
        raise Unmarkable("the picture begins with an unknown chunk")
    return bytes([alpha << 4, 0, 0, 0]) + width.to_bytes(3, "little") + height.to_bytes(3, "little")


def add_to_mp4(file: BinaryIO) -> bool:
    """Append the packet as a box of its own: nothing moves. Raises ``Unmarkable``.

    Returns whether all frames lie in one box: then the clip can be hashed in blocks.
    Bytes behind the last box are no part of the clip, and go. A packet that was there before becomes free space.
    """
    end, size = 0, os.fstat(file.fileno()).st_size
    last, last_at, boxes_of_frames, fragmented = b"", 0, 0, False
    while end + 8 <= size:
        file.seek(end)
        head = file.read(32)
        length, name = int.from_bytes(head[:4]), head[4:8]
        if not name.isalnum():
            break
        body_at = 8
        if length == 1:
            length, body_at = int.from_bytes(head[8:16]), 16
        elif length == 0:
            # The last box goes to the end of the file. From now on it says where that is.
            length = size - end
            if length >= 1 << 32:
                raise Unmarkable("the last part of the clip is too large to state its size")
            file.seek(end)
            file.write(length.to_bytes(4))
        if length < body_at or end + length > size:
            raise Unmarkable("the clip has a broken box")
        if name == b"uuid" and head[body_at : body_at + 16] == _MP4_XMP:
            file.seek(end + 4)
            file.write(b"free")
        fragmented = fragmented or name == b"moof"
        boxes_of_frames += name == b"mdat"
        last, last_at = name, end
        end += length
    index = b""
    if last == b"mfra" and end - last_at <= _MAX_INDEX_BYTES:
        # Players look for the index of fragments at the end.
        file.seek(last_at)
        index, end = file.read(end - last_at), last_at
    file.seek(end)
    file.truncate()
    body = b"uuid" + _MP4_XMP + PACKET
    file.write((len(body) + 4).to_bytes(4) + body + index)
    return boxes_of_frames == 1 and not fragmented


def _copy(source: BinaryIO, target: BinaryIO, length: int) -> None:
    for part in _parts(source, length):
        target.write(part)


def _parts(source: BinaryIO, length: int) -> Iterator[bytes]:
    """The next ``length`` bytes. Raises ``Unmarkable`` if there are fewer."""
    while length > 0:
        part = source.read(min(length, 1024 * 1024))
        if not part:
            raise Unmarkable("the picture is truncated")
        yield part
        length -= len(part)
