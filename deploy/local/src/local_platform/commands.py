"""The commands: ``python -m local_platform up|demo|down|status|token|run|dead-letters --name local``."""

import argparse
import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

from contracts.message import SERVICES
from local_platform.console import dim, red, say
from local_platform.description import (
    FILE_NAME,
    PlatformDescription,
    PlatformNotRunningError,
    platform_directory,
    read_platform,
)
from local_platform.foreground import INTERRUPTED, run_platform
from local_platform.greeting import process_table, say_how_to_try_it
from local_platform.identity import DEVELOPMENT_USER, sign_token
from local_platform.locking import PlatformAlreadyRunsError, is_locked, remove_leftovers
from local_platform.servers import ServerFailedError
from local_platform.servers.ports import PortInUseError, usual_ports
from local_platform.servers.processes import last_lines
from local_platform.supervisor import PlatformOptions, Supervisor
from local_platform.wiring import python_module

_DOWN_TIMEOUT_SECONDS: Final = 60.0
_EXPECTED_ERRORS: Final = (
    PlatformAlreadyRunsError,
    PlatformNotRunningError,
    PortInUseError,
    ServerFailedError,
    ValueError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except _EXPECTED_ERRORS as error:
        say(red(str(error)))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local_platform", description="The platform on one machine.")
    commands = parser.add_subparsers(required=True, metavar="up|demo|down|status|token|run|dead-letters")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text)
        added.set_defaults(run=run)
        added.add_argument("--name", default="local", help="which platform (default: local)")
        return added

    up = command("up", _up, "start everything and stay until Ctrl-C")
    up.add_argument("--durable", action="store_true", help="sync to disk before acknowledging")
    up.add_argument("--logs", action="store_true", help="print every line of every log, too")
    up.add_argument("--detach", action="store_true", help="return when it runs; `down` stops it")
    worker_help = "setting of the GPU workers, e.g. RENDERER=comfyui (repeatable)"
    up.add_argument("--replicas", type=int, default=1, help="of each service, behind a proxy if several (default: 1)")
    up.add_argument("--worker", action="append", type=_setting, default=[], metavar="NAME=VALUE", help=worker_help)
    for starting in (up, command("demo", _demo, "start everything, show the whole job, stop")):
        starting.add_argument("--workers", type=int, default=1, help="how many GPU workers (default: 1)")
        starting.add_argument(
            "--port", action="append", type=_port, default=[], help="fixed port, e.g. gateway=8000 (repeatable)"
        )
    command("down", _down, "stop a platform")
    command("status", _status, "what runs where")
    token = command("token", _token, "print a development token")
    token.add_argument("--user", type=UUID, default=DEVELOPMENT_USER)
    token.add_argument("--plan", default="free")
    token.add_argument("--lifetime-seconds", type=int, default=3600)
    run = command("run", _run, "run a command of a service with the settings that it has in the platform")
    run.add_argument("service", choices=SERVICES)
    run.add_argument("arguments", nargs=argparse.REMAINDER, help="e.g. grant --user ... --credits 100")
    letters = command("dead-letters", _dead_letters, "list, show, replay or discard the dead letters of a service")
    letters.add_argument("service", choices=SERVICES)
    letters.add_argument("verb", choices=("list", "show", "replay", "discard"))
    letters.add_argument("arguments", nargs=argparse.REMAINDER, help="e.g. MESSAGE_ID, or --all")
    return parser


def _port(text: str) -> tuple[str, int]:
    listener, _, number = text.partition("=")
    if not number.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not like gateway=8000")
    return listener, int(number)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not like RENDERER=comfyui")
    return name, value


def _up(options: argparse.Namespace) -> int:
    if options.detach:
        return _up_detached(options)
    platform_options = PlatformOptions(
        name=options.name,
        ports=_up_ports(dict(options.port)),
        environment={f"worker-{number}": dict(options.worker) for number in range(1, options.workers + 1)},
        workers=options.workers,
        replicas=options.replicas,
        durable=options.durable,
        follow_logs=options.logs,
    )

    async def stay(_: Supervisor, platform: PlatformDescription) -> int:
        say_how_to_try_it(platform)
        say(dim("Ctrl-C stops it."))
        await asyncio.Event().wait()
        return 0

    return asyncio.run(run_platform(platform_options, stay, interrupted=0))


def _up_ports(given: dict[str, int]) -> dict[str, int]:
    """The ports that were given, and the usual ones that are free."""
    return {name: port for name, port in usual_ports().items() if port not in given.values()} | given


def _up_detached(options: argparse.Namespace) -> int:
    """Start the same command in a session of its own, and return when its platform runs."""
    directory = platform_directory(options.name)
    if is_locked(directory):
        raise PlatformAlreadyRunsError(directory)
    directory.mkdir(parents=True, exist_ok=True)
    output = directory / "supervisor.log"
    command = python_module("local_platform", "up", "--name", options.name)
    command += ["--workers", str(options.workers), "--replicas", str(options.replicas)]
    command += [*(["--durable"] if options.durable else [])]
    command += [part for listener, number in options.port for part in ("--port", f"{listener}={number}")]
    command += [part for setting, value in options.worker for part in ("--worker", f"{setting}={value}")]
    with output.open("wb") as log:
        supervisor = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=Path.cwd()
        )
    try:
        while supervisor.poll() is None:
            if (directory / FILE_NAME).exists() and read_platform(options.name).supervisor_pid == supervisor.pid:
                platform = read_platform(options.name)
                say(process_table(platform))
                say_how_to_try_it(platform)
                say(dim(f"make down NAME={options.name} stops it."))
                return 0
            time.sleep(0.2)
    except KeyboardInterrupt:
        supervisor.terminate()
        supervisor.wait()
        return INTERRUPTED
    say(red(f"platform {options.name!r} did not start:\n{last_lines(output)}"))
    return 1


def _demo(options: argparse.Namespace) -> int:
    from local_platform.demo import SETTINGS, run_demo

    platform_options = PlatformOptions(
        name=options.name, ports=dict(options.port), workers=options.workers, environment=SETTINGS
    )
    return asyncio.run(run_platform(platform_options, run_demo, interrupted=INTERRUPTED))


def _down(options: argparse.Namespace) -> int:
    directory = platform_directory(options.name)
    if not is_locked(directory):
        left = remove_leftovers(directory)
        say(f"platform {options.name!r} does not run" + (" (removed the files of a killed one)" if left else ""))
        return 0
    os.kill(read_platform(options.name).supervisor_pid, signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_TIMEOUT_SECONDS
    while is_locked(directory):
        if time.monotonic() > deadline:
            say(red(f"platform {options.name!r} did not stop within {_DOWN_TIMEOUT_SECONDS:.0f} s"))
            return 1
        time.sleep(0.1)
    say(f"platform {options.name!r} is stopped")
    return 0


def _status(options: argparse.Namespace) -> int:
    say(process_table(_running(options.name)))
    return 0


def _token(options: argparse.Namespace) -> int:
    platform = _running(options.name)
    say(sign_token(platform.identity, options.user, options.plan, lifetime_seconds=options.lifetime_seconds))
    return 0


def _run(options: argparse.Namespace) -> int:
    settings = _running(options.name).environments[options.service]
    command = python_module(f"{options.service}.main", *options.arguments)
    return subprocess.run(command, env={**os.environ, **settings}, check=False).returncode


def _dead_letters(options: argparse.Namespace) -> int:
    dsn = _running(options.name).postgres.dsns[options.service]
    where = ("--dsn", dsn, "--schema", options.service)
    command = python_module("messaging.dead_letters", options.verb, *where, *options.arguments)
    return subprocess.run(command, check=False).returncode


def _running(name: str) -> PlatformDescription:
    if not is_locked(platform_directory(name)):
        raise PlatformNotRunningError(f"platform {name!r} does not run: make up NAME={name}")
    return read_platform(name)
