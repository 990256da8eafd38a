"""Ports of servers that start on one machine at the same time."""

import asyncio
import random
import sys

import pytest

from local_platform.servers import ports

ANOTHER_PROCESS = """
import sys
from local_platform.servers import ports
ports._FIRST_PORT, ports._LAST_PORT = int(sys.argv[1]), int(sys.argv[1]) + 1
print(ports.free_port(), flush=True)
sys.stdin.read()
"""


async def test_a_port_handed_out_to_one_process_is_not_handed_out_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    first = _pair_of_free_ports()
    command = (sys.executable, "-c", ANOTHER_PROCESS, str(first))
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert other.stdin is not None
    assert other.stdout is not None
    theirs = int(await asyncio.wait_for(other.stdout.readline(), 30))
    monkeypatch.setattr(ports, "_FIRST_PORT", first)
    monkeypatch.setattr(ports, "_LAST_PORT", first + 1)

    try:
        # Nobody listens on either port yet.
        assert {theirs, ports.free_port()} == {first, first + 1}
        with pytest.raises(ports.NoFreePortError):
            ports.free_port()
    finally:
        other.stdin.close()
        await other.wait()


def _pair_of_free_ports() -> int:
    """Below those that other tests are handed out."""
    candidates = random.sample(range(16000, 17998), 1998)
    return next(port for port in candidates if ports._is_free(port) and ports._is_free(port + 1))
