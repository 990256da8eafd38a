"""The ids of what was created, in a file. Names are not unique at RunPod. The file holds no secret."""

import os
from pathlib import Path

import msgspec

from gpu_endpoint.deploy.errors import InvalidDescription


class Known(msgspec.Struct):
    """One thing: its id, and the digests of the fields that were sent last."""

    id: str
    applied: dict[str, str] = {}


class State(msgspec.Struct):
    """By kind and name, such as ``endpoints/reelhouse-video``."""

    schema: int = 1
    things: dict[str, Known] = {}


class StateFile:
    """Written after every creation, whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.state = self._read()

    def note(self, key: str, known: Known) -> None:
        """Remember it, and write the file."""
        self.state.things[key] = known
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(self.state)) + b"\n")
        unfinished.replace(self._path)

    def _read(self) -> State:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except msgspec.DecodeError as error:
            raise InvalidDescription(f"{self._path}: {error}. Without the file, things are found by name") from error
