"""Become ComfyUI: ``python launcher.py PARENT_PID PORT main.py ARGUMENTS...``, by its own Python, in its directory.

It dies with its parent: a worker that is killed must not leave a ComfyUI behind which holds the GPU.
It collects no garbage until it serves: imports make millions of objects that stay, and Python would look through them
again and again. That is a fifth of the start. What is there then is frozen, so that no later collection looks at it.
"""

import ctypes
import gc
import os
import runpy
import signal
import socket
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.05


def main(parent: int, port: int, program: str, arguments: list[str]) -> None:
    """Run the program as ``__main__``."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        sys.exit("the worker is gone")
    gc.disable()
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


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
