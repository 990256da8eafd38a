"""Become ComfyUI: ``python launcher.py PARENT_PID PORT main.py ARGUMENTS...``, by its own Python, in its directory.

It dies with its parent: a worker that is killed must not leave a ComfyUI behind which holds the GPU.
It collects no garbage until it serves: imports make millions of objects that stay, and Python would look through them
again and again. That is a fifth of the start. What is there then is frozen, so that no later collection looks at it.
What ``transformers`` learns from its own sources is remembered beside them, as Python remembers what it compiled:
it reads 1,700 of its files twice before it is imported. That is an eighth of the start.
``python launcher.py remember`` does so when an image is built.
"""

import contextlib
import ctypes
import gc
import hashlib
import importlib.machinery
import importlib.util
import marshal
import os
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.05
_READER = "transformers.utils.import_utils"


def main(parent: int, port: int, program: str, arguments: list[str]) -> None:
    """Run the program as ``__main__``."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        sys.exit("the worker is gone")
    gc.disable()
    sys.meta_path.insert(0, _Remembering())
    threading.Thread(target=_collect_once_it_serves, args=(port,), daemon=True, name="garbage").start()
    # As if Python had been given the program: its own directory is where it finds its modules.
    path = os.path.abspath(program)
    sys.path[0] = os.path.dirname(path)
    sys.argv = [program, *arguments]
    runpy.run_path(path, run_name="__main__")


def _collect_once_it_serves(port: int) -> None:
    while not _serves(port):
        time.sleep(_POLL_SECONDS)
    gc.freeze()
    gc.enable()


def _serves(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


class _Remembering:
    """Finds the one module that reads those sources, and has it remember what it read."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _READER or (spec := importlib.machinery.PathFinder.find_spec(name, path, target)) is None:
            return None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def executed(module: ModuleType) -> None:
            execute(module)
            module.create_import_structure_from_path = _remembered(  # type: ignore[attr-defined]
                module.create_import_structure_from_path
            )

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


def _remembered(read: Callable[[str | os.PathLike[str]], Any]) -> Callable[[str | os.PathLike[str]], Any]:
    """``read``, which names what the modules of a package define, asked once for each state of the package.

    It asks itself for each directory below; only the whole is remembered.
    """
    inside = False

    def structure(path: str | os.PathLike[str]) -> Any:
        nonlocal inside
        if inside:
            return read(path)
        package = os.path.dirname(path) if os.path.isfile(path) else os.fspath(path)
        memory = _Memory(package)
        if (known := memory.recall()) is not None:
            return known
        inside = True
        try:
            learned = read(path)
        finally:
            inside = False
        memory.store(learned)
        return learned

    return structure


class _Memory:
    """A file among the compiled ones of a package, true for one content of the package's and its parent's head."""

    def __init__(self, package: str) -> None:
        digest = hashlib.sha256(marshal.dumps((marshal.version, package)))
        for directory in (package, os.path.dirname(package)):
            with contextlib.suppress(FileNotFoundError), open(os.path.join(directory, "__init__.py"), "rb") as head:
                digest.update(head.read())
        self._key = digest.digest()
        self._path = os.path.join(package, "__pycache__", f"structure.{sys.implementation.cache_tag}.marshal")

    def recall(self) -> Any:
        try:
            with open(self._path, "rb") as file:
                key, structure = marshal.load(file)  # noqa: S302 - it lies where compiled code lies
        except (OSError, EOFError, ValueError, TypeError):
            return None
        return structure if key == self._key else None

    def store(self, structure: Any) -> None:
        if sys.dont_write_bytecode:
            return
        unfinished = f"{self._path}.{os.getpid()}"
        # As with compiled code: who may not write there reads the sources again.
        with contextlib.suppress(OSError):
            with open(unfinished, "wb") as file:
                marshal.dump((self._key, structure), file)
            os.replace(unfinished, self._path)


def remember() -> None:
    """Have the memory written, if ``transformers`` is there."""
    sys.meta_path.insert(0, _Remembering())
    if importlib.util.find_spec("transformers") is not None:
        importlib.import_module("transformers")


if __name__ == "__main__":
    if sys.argv[1:] == ["remember"]:
        sys.path.pop(0)
        remember()
        sys.exit()
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
