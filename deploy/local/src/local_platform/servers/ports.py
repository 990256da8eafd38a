"""Free TCP ports on the loopback interface."""

import fcntl
import os
import random
import socket
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Final

# Below the range from which Linux (32768-) and macOS (49152-) take the ports of outgoing connections. So no outgoing
# connection can get the port between this check and the start of the server.
_FIRST_PORT: Final = 18000
_LAST_PORT: Final = 32000
_TRIES: Final = 500
_USUAL: Final = {"gateway": 8000, "s3": 8001, "identity": 8002}
"""What frontends and their developers write down: the API, the files, the keys of tokens."""

_handed_out: set[int] = set()
_lock = threading.Lock()
_random = random.SystemRandom()


class PortInUseError(RuntimeError):
    """Another program listens on the port that a listener was given."""

    def __init__(self, port: int, listener: str) -> None:
        super().__init__(
            f"port {port} for {listener} is in use by another program; choose another with --port {listener}=NUMBER"
        )


class NoFreePortError(RuntimeError):
    """Several hundred ports were tried and none was free."""


def free_port() -> int:
    """A port on 127.0.0.1 that is free, and that no running process of this user has been handed out before."""
    with _lock:
        for _ in range(_TRIES):
            port = _random.randint(_FIRST_PORT, _LAST_PORT)
            if port not in _handed_out and _is_free(port) and _claim(port):
                _handed_out.add(port)
                return port
    raise NoFreePortError(f"no free port between {_FIRST_PORT} and {_LAST_PORT}")


def reserve_port(port: int, listener: str) -> int:
    """The given port, which ``free_port`` will not hand out. Raises PortInUseError, naming the listener.

    Who gave the port may have claimed it for us, so a claim of another process is no obstacle.
    """
    with _lock:
        if not _is_free(port):
            raise PortInUseError(port, listener)
        _claim(port)
        _handed_out.add(port)
    return port


def usual_ports() -> dict[str, int]:
    """The listeners that are always at the same port, as long as no other program is there."""
    return {listener: port for listener, port in _USUAL.items() if _is_free(port)}


def _claim(port: int) -> bool:
    """Claim the port until this process ends. False if another process has: its server may not listen yet."""
    try:
        fcntl.lockf(_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):  # POSIX allows EAGAIN and EACCES
        return False
    return True


@cache
def _claims() -> int:
    """A file whose byte N is locked by the process that was handed out port N. Never closed: that would unlock."""
    path = Path(tempfile.gettempdir()) / f"reelhouse-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _is_free(port: int) -> bool:
    for address in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - only to see that no program listens on all interfaces
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
