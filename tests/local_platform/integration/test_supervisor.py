"""The supervisor with a small process table: restarts, stops, and two platforms side by side."""

import asyncio
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import httpx
import jwt
import pytest
from nats import connect
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout

from local_platform.description import FILE_NAME, PlatformDescription, read_platform
from local_platform.identity import sign_token
from local_platform.locking import PlatformAlreadyRunsError, is_locked
from local_platform.migrations import migrate_all
from local_platform.process_table import PROCESSES, ProcessSpec
from local_platform.processes import TableProcess
from local_platform.servers import ServerFailedError
from local_platform.servers.ports import PortInUseError
from local_platform.supervisor import PlatformOptions, Supervisor
from local_platform.wiring import Wiring
from messaging.ids import new_id
from tests.support import eventually
from tests.support.service_processes import is_running

IDENTITY = [spec for spec in PROCESSES if spec.name == "identity"]


@asynccontextmanager
async def platform(root: Path, name: str = "test") -> AsyncIterator[tuple[Supervisor, PlatformDescription]]:
    supervisor = Supervisor(PlatformOptions(name=name, root=root), IDENTITY)
    try:
        description = await supervisor.start()
        watching = asyncio.create_task(supervisor.watch())
        yield supervisor, description
        watching.cancel()
        await asyncio.wait([watching])
    finally:
        await supervisor.stop()


def _gone(path: str) -> bool:
    return not Path(path).exists()


async def test_a_platform_describes_itself_in_a_private_file_and_is_removed(tmp_path: Path) -> None:
    async with platform(tmp_path) as (supervisor, description):
        file = supervisor.directory / FILE_NAME
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert read_platform("test", tmp_path) == description
        assert set(description.postgres.dsns) >= {"billing", "billing_migrator", "auditor"}
        pids = [process.pid for process in description.processes.values()]
        assert all(is_running(pid) for pid in pids)
    assert not any(is_running(pid) for pid in pids)
    assert not file.exists()
    assert _gone(description.data_directory)
    assert not is_locked(supervisor.directory)


async def test_tokens_verify_against_the_published_key_set(tmp_path: Path) -> None:
    async with platform(tmp_path) as (_, description):
        user_id = new_id()
        token = sign_token(description.identity, user_id, plan="pro")
        async with httpx.AsyncClient(trust_env=False) as client:
            keys = jwt.PyJWKSet.from_dict((await client.get(description.identity.jwks_url)).json())
        claims = jwt.decode(
            token,
            keys[jwt.get_unverified_header(token)["kid"]],
            algorithms=["ES256"],
            audience="authenticated",
            issuer=description.identity.issuer,
        )
        assert (claims["sub"], claims["role"], claims["app_metadata"]["plan"]) == (str(user_id), "authenticated", "pro")


async def test_every_killed_process_comes_back_on_its_port(tmp_path: Path) -> None:
    async with platform(tmp_path) as (supervisor, before):
        for name in before.processes:
            supervisor.kill(name)

        def all_back() -> bool:
            now = read_platform("test", tmp_path)
            return all(process.restarts == 1 and is_running(process.pid) for process in now.processes.values())

        await eventually(all_back, timeout=40, what="every process runs again")
        after = read_platform("test", tmp_path)
        assert {name: process.address for name, process in after.processes.items()} == {
            name: process.address for name, process in before.processes.items()
        }


async def test_a_broker_that_stores_nothing_since_its_disk_was_full_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local_platform.supervisor._STORE_WATCH_SECONDS", 0.1)
    async with platform(tmp_path) as (supervisor, description):
        nats = supervisor.wiring.nats
        client = await connect(nats.url, user="admin", password=nats.users["admin"])
        jetstream = client.jetstream(timeout=1)
        await jetstream.add_stream(name="TEST", subjects=["test"])
        # Every write to a file beyond this fails, as on a full disk.
        resource.prlimit(nats.pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
        with suppress(NatsTimeout):
            await jetstream.publish("test", b"x" * 10_000)

        async def stored() -> bool:
            with suppress(NatsError, OSError):
                return bool(await jetstream.publish("test", b"x" * 10_000, timeout=1))
            return False

        await eventually(stored, timeout=20, what="a message is stored")
        await client.close()
        assert nats.pid != description.processes["nats"].pid


async def test_two_platforms_run_side_by_side_but_not_with_one_name(tmp_path: Path) -> None:
    async with platform(tmp_path, "one") as (_, one), platform(tmp_path, "two") as (_, two):
        assert one.urls["identity"] != two.urls["identity"]
        second = Supervisor(PlatformOptions(name="one", root=tmp_path), IDENTITY)
        with pytest.raises(PlatformAlreadyRunsError, match="make down NAME=one"):
            await second.start()
        await second.stop()
        assert is_locked(tmp_path / ".reelhouse" / "one")
        assert read_platform("one", tmp_path) == one


@pytest.mark.parametrize("listener", ["identity", "postgres", "nats", "s3"])
async def test_a_given_port_that_is_in_use_ends_the_start_at_once(tmp_path: Path, listener: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other_program:
        port = other_program.getsockname()[1]
        supervisor = Supervisor(PlatformOptions(name="test", root=tmp_path, ports={listener: port}), IDENTITY)
        try:
            with pytest.raises(PortInUseError) as error:
                await supervisor.start()
        finally:
            await supervisor.stop()
    assert str(error.value) == (
        f"port {port} for {listener} is in use by another program; choose another with --port {listener}=NUMBER"
    )
    assert list(supervisor.log_directory.iterdir()) == [], "nothing was started"
    assert not (supervisor.directory / FILE_NAME).exists()


async def test_the_command_says_in_one_line_that_a_port_is_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other_program:
        port = other_program.getsockname()[1]
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "local_platform", "up", "--name", "test", "--port", f"gateway={port}"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await asyncio.wait_for(command.communicate(), 20)
    assert command.returncode == 1
    about_the_port = [line for line in printed.decode().splitlines() if str(port) in line]
    assert len(about_the_port) == 1
    assert "in use" in about_the_port[0]
    assert "Traceback" not in printed.decode()


async def test_dead_letters_are_listed_and_closed_without_naming_a_database(tmp_path: Path) -> None:
    async with platform(tmp_path, "two") as (_, description):
        await migrate_all(description.postgres.dsns, ["billing"])
        connection = await asyncpg.connect(description.postgres.dsns["billing"])
        message_id = new_id()
        await connection.execute(
            "INSERT INTO dead_letters"
            " (consumer, message_id, subject, stream, payload, headers, reason, error, deliveries)"
            " VALUES ('billing-gateway', $1, 'x', 'GATEWAY', '', '{}', 'failed', 'a bug', 5)",
            message_id,
        )
        await connection.close()
        listed = await _dead_letters(tmp_path, "list")
        closed = await _dead_letters(tmp_path, "discard", str(message_id), "--actor", "me", "--reason", "no use")
        still_listed = await _dead_letters(tmp_path, "list")
    assert json.loads(listed)["message_id"] == str(message_id)
    assert json.loads(closed)["message_id"] == str(message_id)
    assert still_listed == b""


async def _dead_letters(directory: Path, *arguments: str) -> bytes:
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "local_platform", "dead-letters", "--name", "two", "billing", *arguments),
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await asyncio.wait_for(command.communicate(), 30)
    return printed


def _failing(_: Wiring) -> list[str]:
    return [sys.executable, "-c", "raise SystemExit('the configuration is wrong')"]


async def test_a_process_that_dies_ends_the_start_with_its_last_lines(tmp_path: Path) -> None:
    broken = ProcessSpec(
        name="broken",
        stage="provider",
        command=_failing,
        environment=lambda _: {},
        listeners=("broken",),
        ready_listener="broken",
    )
    supervisor = Supervisor(PlatformOptions(name="test", root=tmp_path), [*IDENTITY, broken])
    try:
        with pytest.raises(ServerFailedError, match="the configuration is wrong"):
            await supervisor.start()
    finally:
        await supervisor.stop()
    assert not (supervisor.directory / FILE_NAME).exists()


async def test_a_cancelled_start_leaves_no_process(tmp_path: Path) -> None:
    supervisor = Supervisor(PlatformOptions(name="test", root=tmp_path), IDENTITY)
    starting = asyncio.create_task(supervisor.start())
    nats_log = supervisor.log_directory / "nats.log"
    await eventually(nats_log.exists, what="the servers begin to start")
    starting.cancel()
    await asyncio.wait([starting])
    await supervisor.stop()
    assert not any(process.alive() for process in supervisor._processes.values())
    assert not supervisor.wiring.data_directory.exists()


_KEEP_RUNNING = """
import asyncio, sys
from pathlib import Path
from local_platform.migrations import migrate_all
from local_platform.process_table import PROCESSES
from local_platform.supervisor import PlatformOptions, Supervisor

async def main():
    supervisor = Supervisor(
        PlatformOptions(name="test", root=Path(sys.argv[1])), [spec for spec in PROCESSES if spec.name == "identity"]
    )
    await supervisor.start()
    await supervisor.watch()

asyncio.run(main())
"""


@pytest.fixture
def other_supervisor(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", _KEEP_RUNNING, str(tmp_path)]) as process:
        yield process
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)


async def test_a_killed_supervisor_leaves_nothing_and_can_be_started_again(
    tmp_path: Path, other_supervisor: subprocess.Popen[bytes]
) -> None:
    file = tmp_path / ".reelhouse" / "test" / FILE_NAME
    await eventually(file.exists, timeout=40, what="the other platform runs")
    left = json.loads(file.read_bytes())
    pids = [process["pid"] for process in left["processes"].values()]
    assert all(is_running(pid) for pid in pids)

    other_supervisor.kill()
    await eventually(lambda: not any(is_running(pid) for pid in pids), timeout=15, what="its processes are gone")
    await eventually(lambda: _gone(left["data_directory"]), what="its data are gone")

    async with platform(tmp_path) as (_, description):
        assert description.supervisor_pid == os.getpid()


async def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    process = TableProcess(
        "stubborn",
        command=[sys.executable, "-c", stubborn],
        environment={},
        directory=tmp_path,
        log_file=tmp_path / "stubborn.log",
        ready_url=None,
        stop_timeout_seconds=0.3,
    )
    await process.start()
    await eventually(lambda: "deaf" in process.log_file.read_text(), what="the process runs")
    await process.stop()
    assert not process.alive()
