"""Which files each model needs, and the SHA-256 of each file: published, or learned once and enforced from then on."""

import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import msgspec

from gpu_endpoint.provision.errors import InvalidFile

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Part = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._/-]*$")]


Source = Literal["manifest", "hub", "download"]


class ModelFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of a model. Without ``sha256``, nobody publishes one."""

    folder: Part
    name: Part
    url: str
    sha256: Sha256 | None = None

    @property
    def path(self) -> str:
        """Below the directory of models."""
        return f"{self.folder}/{self.name}"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Files by model."""

    models: dict[str, tuple[ModelFile, ...]]

    def of(self, model_ids: tuple[str, ...]) -> "Manifest":
        """These models only; all of them if none is named. Raises InvalidFile."""
        if unknown := sorted(set(model_ids) - self.models.keys()):
            raise InvalidFile(f"the manifest has no model {', '.join(unknown)}")
        return Manifest(models={model: self.models[model] for model in model_ids or self.models})

    def files(self) -> list[ModelFile]:
        """Each file once. Raises InvalidFile if two models disagree about one."""
        found: dict[str, ModelFile] = {}
        for file in (file for files in self.models.values() for file in files):
            if ".." in PurePosixPath(file.path).parts:
                raise InvalidFile(f"{file.path} leaves the directory of models")
            known = found.setdefault(file.path, file)
            if known.sha256 and file.sha256 and known.sha256 != file.sha256:
                raise InvalidFile(f"{file.path} has two SHA-256 in the manifest")
            if file.sha256:
                found[file.path] = file
        return list(found.values())


class Locked(msgspec.Struct, frozen=True, kw_only=True):
    """What a file must be. ``learned_from``: the manifest, the hub's own word, or the first download."""

    sha256: Sha256
    size_bytes: int
    learned_from: Source


class Lock(msgspec.Struct, kw_only=True):
    """By path."""

    files: dict[str, Locked] = {}


class LockFile:
    """Written after every file, whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.files = msgspec.json.decode(path.read_bytes(), type=Lock).files
        except FileNotFoundError:
            self.files = {}
        except msgspec.DecodeError as error:
            raise InvalidFile(f"{path}: {error}") from error

    def expected(self, file: ModelFile) -> str | None:
        """The SHA-256 that the file must have, if it is known. Raises InvalidFile if manifest and lock disagree."""
        locked = self.files.get(file.path)
        if locked is not None and file.sha256 is not None and locked.sha256 != file.sha256:
            raise InvalidFile(f"{file.path}: the manifest says {file.sha256}, the lock says {locked.sha256}")
        return file.sha256 or (locked.sha256 if locked is not None else None)

    def learn(self, path: str, locked: Locked) -> None:
        """Enforce it from now on. What is locked stays as it is."""
        if path in self.files:
            return
        self.files[path] = locked
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        ordered = Lock(files=dict(sorted(self.files.items())))
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(ordered)) + b"\n")
        unfinished.replace(self._path)


def read_manifest(path: Path) -> Manifest:
    """Raises InvalidFile."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise InvalidFile(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise InvalidFile(f"{path}: {error}") from error


class _CatalogueEntry(msgspec.Struct, frozen=True):
    id: str
    files: tuple[ModelFile, ...]


def manifest_of_catalogue(directory: Path) -> bytes:
    """The manifest as JSON, from the ``model.json`` of every model of the catalogue."""
    entries = [
        msgspec.json.decode(path.read_bytes(), type=_CatalogueEntry) for path in sorted(directory.glob("*/model.json"))
    ]
    manifest = Manifest(models={entry.id: entry.files for entry in entries})
    manifest.files()
    return msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
