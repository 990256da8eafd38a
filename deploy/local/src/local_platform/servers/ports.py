"""Free TCP ports on the loopback interface, with as few races as can be had."""

import random
import socket
import threading

# Below the range from which Linux (32768-) and macOS (49152-) take the ports of outgoing connections: between our
# asking and the server's binding, no passing connection can be given the same number.
_FIRST_PORT = 18000
_LAST_PORT = 32000
_TRIES = 500

_handed_out: set[int] = set()
_lock = threading.Lock()
_random = random.SystemRandom()


class NoFreePortError(RuntimeError):
    """No port could be bound in several hundred tries."""


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on and that this process has not handed out before."""
    with _lock:
        for _ in range(_TRIES):
            port = _random.randint(_FIRST_PORT, _LAST_PORT)
            if port not in _handed_out and _can_bind(port):
                _handed_out.add(port)
                return port
    raise NoFreePortError(f"no free port between {_FIRST_PORT} and {_LAST_PORT}")


def _can_bind(port: int) -> bool:
    for address in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - only to see that nobody listens on all interfaces
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
