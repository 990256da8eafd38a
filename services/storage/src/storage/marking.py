"""Marks a file as made by AI: a signed C2PA manifest, and the IPTC digital source type. Runs in decoder processes."""

import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

import c2pa

from storage.errors import Unmarkable
from storage.xmp import add_to_mp4, copy_jpeg, copy_png, copy_webp

_PICTURES: Final[dict[str, Callable[[BinaryIO, BinaryIO], None]]] = {
    "png": copy_png,
    "jpg": copy_jpeg,
    "webp": copy_webp,
}
_FORMATS: Final = {"mp4": "video/mp4", "png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
"""By the name of the container. C2PA has no place in WebM."""
_BLOCK_BYTES: Final = 4 * 1024 * 1024
_BLOCKS_FROM_BYTES: Final = 32 * 1024 * 1024
"""The frames of a larger clip are hashed in blocks: otherwise up to half a gigabyte of it is held in memory.

Blocks of a fragmented clip, or of one with several boxes of frames, read back as invalid: it is hashed as a whole.
"""
_MEMORY_MB: Final = 8
_MEMORY: Final = {"backing_store_memory_threshold_in_mb": _MEMORY_MB}
"""More than this is kept in TMPDIR while the manifest is written."""
_MANIFEST: Final = {"claim_generator_info": [{"name": "Reelhouse"}], "assertions": []}
_SETTINGS: Final = {
    "version": 1,
    "core": _MEMORY,
    "builder": {"thumbnail": {"enabled": False}},
    # Nothing is asked for over the network. The result is read by ``_check`` instead of by the builder.
    "verify": {
        "verify_after_sign": False,
        "verify_trust": False,
        "remote_manifest_fetch": False,
        "ocsp_fetch": False,
    },
}


class Marker:
    """Marks files. ``sign`` returns the ES256 signature (r and s, 64 bytes) of what it is given."""

    def __init__(self, certificates: str, sign: Callable[[bytes], bytes]) -> None:
        self._signer = c2pa.Signer.from_callback(sign, c2pa.C2paSigningAlg.ES256, certificates)
        self._context = c2pa.Context(c2pa.Settings.from_dict(_SETTINGS))
        blocks = {"core": _MEMORY | {"merkle_tree_chunk_size_in_kb": _BLOCK_BYTES // 1024}}
        self._context_for_blocks = c2pa.Context(c2pa.Settings.from_dict(_SETTINGS | blocks))

    def mark(self, path: Path, container: str, marked: Path) -> None:
        """Write the marked file to ``marked``. A clip at ``path`` is changed, too. Raises ``Unmarkable``."""
        if container not in _FORMATS:
            raise Unmarkable(f"{container} has no place for a manifest")
        with marked.open("w+b") as target:
            if container == "mp4":
                with path.open("r+b") as file:
                    in_one_box = add_to_mp4(file)
                    is_large = os.fstat(file.fileno()).st_size > _BLOCKS_FROM_BYTES
                    self._sign(file, container, target, in_blocks=in_one_box and is_large)
                return
            if path.stat().st_size <= _MEMORY_MB * 1024**2:
                # The library reads a picture in a thousand small pieces, and each of them from a file is dearer.
                target.write(self.mark_picture(path.read_bytes(), container))
                return
            with path.open("rb") as picture, tempfile.TemporaryFile(dir=marked.parent) as with_packet:
                _PICTURES[container](picture, with_packet)
                self._sign(with_packet, container, target)

    def mark_picture(self, picture: bytes, container: str) -> bytes:
        """The marked picture. Raises ``Unmarkable``."""
        with_packet, target = io.BytesIO(), io.BytesIO()
        _PICTURES[container](io.BytesIO(picture), with_packet)
        self._sign(with_packet, container, target)
        return target.getvalue()

    def _sign(self, source: BinaryIO, container: str, target: BinaryIO, in_blocks: bool = False) -> None:
        source.seek(0)
        context, media_type = self._context_for_blocks if in_blocks else self._context, _FORMATS[container]
        try:
            builder = c2pa.Builder(_MANIFEST, context=context)
            builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA)
            builder.sign(self._signer, media_type, source, target)
            target.seek(0)
            with c2pa.Reader(media_type, target, context=context) as reader:
                state = reader.get_validation_state()
        except c2pa.C2paError as error:
            raise Unmarkable(f"{type(error).__name__.lstrip('_')}: {error}"[:200]) from error
        if state not in ("Valid", "Trusted"):
            raise Unmarkable(f"the manifest reads as {state}")
