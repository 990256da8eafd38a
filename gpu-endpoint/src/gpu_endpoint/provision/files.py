"""Files on disk: their SHA-256, whether a safetensors file is whole, and what is wrong with the models of a volume."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gpu_endpoint.provision.manifest import LockFile, Manifest, ModelFile

QUARANTINE: Final = ".quarantine"
_LONGEST_HEADER_BYTES: Final = 100_000_000


@dataclass(frozen=True)
class Trouble:
    """One file that a model needs and cannot use."""

    model: str
    path: str
    what: str


def sha256_of(path: Path) -> str:
    """Of the whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says. Other files are not looked at.

    It finds a file that was cut, and a page of words in place of a file, where no SHA-256 is known.
    """
    if path.suffix != ".safetensors":
        return True
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER_BYTES):
            return False
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return False
    if not isinstance(header, dict):
        return False
    tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
    return size == 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0)


def quarantine(directory: Path, path: Path) -> None:
    """Move a damaged file away. Only the last one of a name is kept."""
    kept = directory / QUARANTINE / path.relative_to(directory)
    kept.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, kept)


def troubles(directory: Path, manifest: Manifest, lock: LockFile, *, deep: bool) -> Iterator[Trouble]:
    """What is wrong, model by model. ``deep`` reads every file for its SHA-256; otherwise sizes decide."""
    yield from troubles_by(manifest, lambda file: trouble_at(directory / file.path, file, lock, deep=deep))


def troubles_by(manifest: Manifest, look: Callable[[ModelFile], str | None]) -> Iterator[Trouble]:
    """What ``look`` says of the files, model by model. It is asked once for each file."""
    known: dict[str, str | None] = {}
    for model, files in manifest.models.items():
        for file in files:
            if file.path not in known:
                known[file.path] = look(file)
            if what := known[file.path]:
                yield Trouble(model, file.path, what)


def trouble_at(path: Path, file: ModelFile, lock: LockFile, *, deep: bool) -> str | None:
    """What is wrong with a file that lies there."""
    if not path.is_file():
        return "missing"
    locked = lock.files.get(file.path)
    if locked is not None and path.stat().st_size != locked.size_bytes:
        return f"damaged: {path.stat().st_size} bytes instead of {locked.size_bytes}"
    if not is_whole(path):
        return "damaged: not as long as its header says"
    expected = lock.expected(file)
    if deep and expected is not None and sha256_of(path) != expected:
        return f"damaged: its SHA-256 is not {expected}"
    return None
