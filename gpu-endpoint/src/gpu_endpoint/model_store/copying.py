"""One model file, copied and checked on the way."""

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Final

from gpu_endpoint.provision.files import is_whole

_CHUNK_BYTES: Final = 8 * 2**20


class SourceDamaged(Exception):
    """The source is not what it must be."""


class Stopped(Exception):
    """The copy was told to end."""


class RateLimit:
    """Bytes per second of all copies together."""

    def __init__(self, bytes_per_second: int) -> None:
        self._bytes_per_second = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def spend(self, size: int, stop: threading.Event) -> None:
        """Wait until that many bytes may pass. Raises Stopped."""
        with self._lock:
            begins_at = max(self._free_at, time.monotonic())
            self._free_at = begins_at + size / self._bytes_per_second
        if stop.wait(max(0.0, begins_at - time.monotonic())):
            raise Stopped


def copy_verified(source: Path, partial: Path, sha256: str | None, limit: RateLimit, stop: threading.Event) -> None:
    """Copy it into a file that is already as large as the source, and hash it meanwhile.

    Without a SHA-256 the size decides, and the header of a safetensors file.

    Raises:
        SourceDamaged: the bytes are not those of the hash, or the file is not as long as its header says.
        Stopped, OSError: the copy did not come to its end.
    """
    if not is_whole(source):
        raise SourceDamaged("not as long as its header says")
    digest = hashlib.sha256()
    copied = 0
    with source.open("rb", buffering=0) as reader, partial.open("r+b", buffering=0) as writer:
        os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        while size := reader.readinto(buffer):
            limit.spend(size, stop)
            writer.write(buffer[:size])
            if sha256 is not None:
                digest.update(buffer[:size])
            copied += size
        # A crash of the host must not leave the name without the bytes: at the next start the size is believed.
        os.fsync(writer.fileno())
    if copied != partial.stat().st_size:
        raise SourceDamaged(f"{copied} bytes instead of {partial.stat().st_size}")
    if sha256 is not None and digest.hexdigest() != sha256:
        raise SourceDamaged(f"its SHA-256 is {digest.hexdigest()} instead of {sha256}")
