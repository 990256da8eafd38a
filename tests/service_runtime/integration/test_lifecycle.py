"""A service process: it starts, is watched, drains and ends with an exit code that says how it went."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator

import httpx
import psutil
import pytest

from local_platform.servers.ports import free_port
from tests.support.waiting import eventually

MEMORY_OF_A_BARE_SERVICE_MB = 100
"""A service may use 120 MB; what all of them share must leave room for what they do."""


class Probe:
    """The process, its addresses and what it said."""

    def __init__(self) -> None:
        self.ops = f"http://127.0.0.1:{free_port()}"
        self.http = f"http://127.0.0.1:{free_port()}"
        self.client = httpx.AsyncClient(timeout=10)
        self.lines: list[str] = []

    async def start(self, how: str) -> None:
        ports = [address.rpartition(":")[2] for address in (self.ops, self.http)]
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.service_runtime.probe_service",
            how,
            *ports,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode())

    @property
    def said(self) -> str:
        return "".join(self.lines)

    async def ready(self) -> bool:
        try:
            return (await self.client.get(f"{self.ops}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def exit_code(self) -> int:
        async with asyncio.timeout(20):
            code = await self.process.wait()
            await self._reader
        return code


@pytest.fixture
async def probe() -> AsyncIterator[Probe]:
    probe = Probe()
    yield probe
    await probe.client.aclose()
    if probe.process.returncode is None:
        probe.process.kill()
        await probe.exit_code()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_service_in_order_with_code_0(probe: Probe, number: signal.Signals) -> None:
    await probe.start("well")
    await eventually(probe.ready)
    assert (await probe.client.get(f"{probe.ops}/livez")).status_code == 200
    assert (await probe.client.get(f"{probe.http}/")).text == "ok"
    probe.process.send_signal(number)
    assert await probe.exit_code() == 0
    order = [probe.said.index(line) for line in ("component cancelled", "on_stop ran", "service_stopped")]
    assert order == sorted(order)


async def test_an_open_request_is_answered_before_the_service_ends(probe: Probe) -> None:
    await probe.start("well")
    await eventually(probe.ready)
    request = asyncio.create_task(probe.client.get(f"{probe.http}/slow"))
    await eventually(lambda: "slow request arrived" in probe.said)
    probe.process.terminate()
    assert (await request).text == "ok"
    assert await probe.exit_code() == 0


async def test_a_request_without_end_holds_the_service_no_longer_than_the_drain_time(probe: Probe) -> None:
    await probe.start("well")
    await eventually(probe.ready)
    request = asyncio.create_task(probe.client.get(f"{probe.http}/never"))
    await eventually(lambda: "endless request arrived" in probe.said)
    probe.process.terminate()
    assert await probe.exit_code() == 0
    assert (await request).status_code == 500


async def test_a_component_that_cannot_be_cancelled_is_named_and_left_behind(probe: Probe) -> None:
    await probe.start("stubborn")
    await eventually(probe.ready)
    probe.process.terminate()
    assert await probe.exit_code() == 1
    assert "after 2 s still there: worker" in probe.said


async def test_a_thread_that_does_not_end_holds_the_service_no_longer_than_the_drain_time(probe: Probe) -> None:
    await probe.start("blocks")
    await eventually(probe.ready)
    probe.process.terminate()
    assert await probe.exit_code() == 0
    assert "service_stopped" in probe.said


async def test_a_service_that_does_not_come_up_can_be_told_to_stop(probe: Probe) -> None:
    await probe.start("start-hangs")
    await eventually(lambda: "start hangs" in probe.said)
    probe.process.terminate()
    assert await probe.exit_code() == 0
    assert "on_stop ran" in probe.said


async def test_what_died_is_named_even_if_something_else_does_not_stop(probe: Probe) -> None:
    await probe.start("dies-and-stays")
    assert await probe.exit_code() == 1
    assert "after 2 s still there: on_stop" in probe.said
    assert "worker died: RuntimeError: the broker refused us" in probe.said


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("dies", "worker died: RuntimeError: the broker refused us"),
        ("returns", "worker died: it returned before the stop"),
        ("start-fails", "the schema is older than the code"),
    ],
)
async def test_what_dies_ends_the_process_with_the_reason(probe: Probe, how: str, reason: str) -> None:
    await probe.start(how)
    assert await probe.exit_code() == 1
    assert reason in probe.said
    assert "on_stop ran" in probe.said
    # One death is one line.
    assert probe.said.count('"level":"error"') == 1


async def test_a_port_that_is_taken_is_a_reason_not_to_start(probe: Probe) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(probe.http.rpartition(":")[2])))
        taken.listen()
        await probe.start("well")
        assert await probe.exit_code() == 1
    assert "cannot listen on 127.0.0.1:" in probe.said


async def test_a_bare_service_is_small(probe: Probe) -> None:
    await probe.start("well")
    await eventually(probe.ready)
    resident = psutil.Process(probe.process.pid).memory_info().rss / 1e6
    assert resident < MEMORY_OF_A_BARE_SERVICE_MB, f"{resident:.0f} MB"
