"""Free TCP ports on the loopback interface."""

import random
import socket
import threading
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
    """A port on 127.0.0.1 that is free and that this process has not handed out before."""
    with _lock:
        for _ in range(_TRIES):
            port = _random.randint(_FIRST_PORT, _LAST_PORT)
            if port not in _handed_out and _is_free(port):
                _handed_out.add(port)
                return port
    raise NoFreePortError(f"no free port between {_FIRST_PORT} and {_LAST_PORT}")


def reserve_port(port: int, listener: str) -> int:
    """The given port, which ``free_port`` will not hand out. Raises PortInUseError, naming the listener."""
    with _lock:
        if not _is_free(port):
            raise PortInUseError(port, listener)
        _handed_out.add(port)
    return port


def usual_ports() -> dict[str, int]:
    """The listeners that are always at the same port, as long as no other program is there."""
    return {listener: port for listener, port in _USUAL.items() if _is_free(port)}


def _is_free(port: int) -> bool:
    for address in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - only to see that no program listens on all interfaces
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
