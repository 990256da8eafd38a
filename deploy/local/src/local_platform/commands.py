"""The commands: ``python -m local_platform up|demo|down|status|token|run --name local``."""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from uuid import UUID

from local_platform.console import bold, dim, green, red, say, table
from local_platform.description import (
    FILE_NAME,
    PlatformDescription,
    PlatformNotRunningError,
    platform_directory,
    read_platform,
)
from local_platform.identity import sign_token
from local_platform.locking import PlatformAlreadyRunsError, is_held, remove_leftovers
from local_platform.servers import ServerFailedError
from local_platform.servers.processes import last_lines
from local_platform.supervisor import PlatformOptions, Supervisor

DEVELOPMENT_USER = UUID("00000000-0000-7000-8000-000000000001")
_DOWN_TIMEOUT_SECONDS = 60.0
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code says whether it went well."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (PlatformAlreadyRunsError, PlatformNotRunningError, ServerFailedError, ValueError) as error:
        say(red(f"{error}"))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local_platform", description="The platform on one machine.")
    commands = parser.add_subparsers(required=True, metavar="up|demo|down|status|token|run")
    for name, run, text in (
        ("up", _up, "start everything and stay until Ctrl-C"),
        ("demo", _demo, "start everything, show the whole job, stop"),
        ("down", _down, "stop a platform that runs"),
        ("status", _status, "what runs where"),
        ("token", _token, "print a development token"),
        ("run", _run, "run a command of a service with the settings it has in the platform"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        command.add_argument("--name", default="local", help="which platform (default: local)")
        if run in (_up, _demo):
            command.add_argument("--workers", type=int, default=1, help="how many GPU workers (default: 1)")
            command.add_argument(
                "--port", action="append", type=_port, default=[], help="fixed port, e.g. gateway=8000 (repeatable)"
            )
        if run is _up:
            command.add_argument("--durable", action="store_true", help="sync to disk before acknowledging")
            command.add_argument("--quiet", action="store_true", help="leave the logs to the log files")
            command.add_argument("--detach", action="store_true", help="return when it runs; `down` stops it")
        if run is _run:
            command.add_argument("service", help="e.g. billing")
            command.add_argument("arguments", nargs=argparse.REMAINDER, help="e.g. grant --user ... --credits 100")
        if run is _token:
            command.add_argument("--user", type=UUID, default=DEVELOPMENT_USER)
            command.add_argument("--plan", default="free")
            command.add_argument("--lifetime-seconds", type=int, default=3600)
    return parser


def _port(text: str) -> tuple[str, int]:
    listener, _, number = text.partition("=")
    if not number.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not like gateway=8000")
    return listener, int(number)


def _up(options: argparse.Namespace) -> int:
    if options.detach:
        return _up_detached(options)
    platform_options = PlatformOptions(
        name=options.name,
        ports=dict(options.port),
        workers=options.workers,
        durable=options.durable,
        follow_logs=not options.quiet,
    )

    async def stay(_: Supervisor, platform: PlatformDescription) -> int:
        say(curl_session(platform))
        say(dim("Ctrl-C stops it."))
        await asyncio.Event().wait()
        return 0

    return asyncio.run(_with_platform(platform_options, stay, interrupted=0))


def _up_detached(options: argparse.Namespace) -> int:
    """Start the same command in a session of its own, and return when its platform runs."""
    directory = platform_directory(options.name)
    if is_held(directory):
        raise PlatformAlreadyRunsError(directory)
    directory.mkdir(parents=True, exist_ok=True)
    output = directory / "supervisor.log"
    command = [sys.executable, "-m", "local_platform", "up", "--quiet", "--name", options.name]
    command += ["--workers", str(options.workers), *(["--durable"] if options.durable else [])]
    command += [part for listener, number in options.port for part in ("--port", f"{listener}={number}")]
    with output.open("wb") as log:
        supervisor = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=Path.cwd()
        )
    try:
        while supervisor.poll() is None:
            if (directory / FILE_NAME).exists() and read_platform(options.name).supervisor_pid == supervisor.pid:
                platform = read_platform(options.name)
                say(processes_table(platform))
                say(curl_session(platform))
                say(dim(f"make down NAME={options.name} stops it."))
                return 0
            time.sleep(0.2)
    except KeyboardInterrupt:
        supervisor.terminate()
        supervisor.wait()
        return _INTERRUPTED
    say(red(f"platform {options.name!r} did not start:\n{last_lines(output)}"))
    return 1


def _demo(options: argparse.Namespace) -> int:
    from local_platform.demo import run_demo

    platform_options = PlatformOptions(name=options.name, ports=dict(options.port), workers=options.workers)
    return asyncio.run(_with_platform(platform_options, run_demo, interrupted=_INTERRUPTED))


async def _with_platform(
    options: PlatformOptions, use: Callable[[Supervisor, PlatformDescription], Awaitable[int]], interrupted: int
) -> int:
    """Start, use, and stop whatever happens in between; Ctrl-C ends it at any moment, a second one at once.

    Returns what ``use`` returns, or ``interrupted`` after Ctrl-C.
    """
    supervisor = Supervisor(options)
    task = asyncio.current_task()
    assert task is not None
    _stop_on_signals(task)
    try:
        return await _started(supervisor, use)
    except asyncio.CancelledError:
        say("\nstopping ...")
        return interrupted
    finally:
        await supervisor.stop()
        say(dim("everything is stopped"))


async def _started(supervisor: Supervisor, use: Callable[[Supervisor, PlatformDescription], Awaitable[int]]) -> int:
    began = time.monotonic()
    say(f"starting platform {bold(supervisor.options.name)} ...")
    platform = await supervisor.start()
    say(processes_table(platform))
    say(green(f"ready after {time.monotonic() - began:.1f} s") + dim(f"   logs: {platform.log_directory}"))
    watching = asyncio.ensure_future(supervisor.watch())
    using = asyncio.ensure_future(use(supervisor, platform))
    try:
        await asyncio.wait([watching, using], return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            await watching
        return await using
    finally:
        for waiting in (watching, using):
            waiting.cancel()
        await asyncio.wait([watching, using])


def _stop_on_signals(task: asyncio.Task[object]) -> None:
    loop = asyncio.get_running_loop()
    asked: list[int] = []

    def stop(number: int) -> None:
        if asked:
            # No more patience: the guardian ends the processes and removes the directories once we are gone.
            os._exit(_INTERRUPTED)
        asked.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)


def _down(options: argparse.Namespace) -> int:
    directory = platform_directory(options.name)
    if not is_held(directory):
        left = remove_leftovers(directory)
        say(f"platform {options.name!r} does not run" + (" (removed what a killed one left)" if left else ""))
        return 0
    os.kill(read_platform(options.name).supervisor_pid, signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_TIMEOUT_SECONDS
    while is_held(directory):
        if time.monotonic() > deadline:
            say(red(f"platform {options.name!r} did not stop within {_DOWN_TIMEOUT_SECONDS:.0f} s"))
            return 1
        time.sleep(0.1)
    say(f"platform {options.name!r} is stopped")
    return 0


def _status(options: argparse.Namespace) -> int:
    platform = _running(options.name)
    say(processes_table(platform))
    return 0


def _token(options: argparse.Namespace) -> int:
    platform = _running(options.name)
    say(sign_token(platform, options.user, options.plan, lifetime_seconds=options.lifetime_seconds))
    return 0


def _run(options: argparse.Namespace) -> int:
    platform = _running(options.name)
    return subprocess.run(
        [sys.executable, "-m", f"{options.service}.main", *options.arguments],
        env={**os.environ, **platform.environments[options.service]},
        check=False,
    ).returncode


def _running(name: str) -> PlatformDescription:
    if not is_held(platform_directory(name)):
        raise PlatformNotRunningError(f"platform {name!r} does not run: make up NAME={name}")
    return read_platform(name)


def processes_table(platform: PlatformDescription) -> str:
    """What runs where."""
    rows = [
        (name, process.address, str(process.pid), str(process.restarts or ""), process.log_file)
        for name, process in platform.processes.items()
    ]
    return table(("process", "address", "pid", "restarts", "log"), rows)


def curl_session(platform: PlatformDescription) -> str:
    """Commands to paste: a token, credits, an order, and watching it."""
    token = sign_token(platform, DEVELOPMENT_USER, "pro", lifetime_seconds=12 * 3600)
    body = '{"model_id": "wan-2.2-t2v", "parameters": {"prompt": "a lighthouse in a storm"}}'
    return "\n".join(
        [
            "",
            bold("Paste this to try it:"),
            f"export REELHOUSE={platform.urls['gateway']}",
            f"export TOKEN={token}",
            f"export USER_ID={DEVELOPMENT_USER}",
            "",
            "# credits for the development user",
            f".venv/bin/python -m local_platform run --name {platform.name} billing \\",
            "  grant --user $USER_ID --credits 1000 --reason goodwill --actor me",
            "# what can be made, and what there is to spend",
            'curl -s $REELHOUSE/v1/models -H "Authorization: Bearer $TOKEN"',
            'curl -s $REELHOUSE/v1/balance -H "Authorization: Bearer $TOKEN"',
            "# order a clip",
            'curl -s -X POST $REELHOUSE/v1/generations -H "Authorization: Bearer $TOKEN" \\',
            f"  -H \"Idempotency-Key: $(date +%s)\" -H 'Content-Type: application/json' -d '{body}'",
            "# everything that happened so far and, live, what happens next (Ctrl-C ends); then look at it",
            'curl -sN $REELHOUSE/v1/events -H "Authorization: Bearer $TOKEN" -H "Last-Event-ID: 0"',
            'curl -s $REELHOUSE/v1/generations -H "Authorization: Bearer $TOKEN"',
            "",
        ]
    )
