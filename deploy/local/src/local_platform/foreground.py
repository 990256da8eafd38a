"""Runs a platform inside this process: start it, use it, and stop it on Ctrl-C or at the end."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Final

from local_platform.console import bold, dim, green, say
from local_platform.description import PlatformDescription
from local_platform.greeting import process_table
from local_platform.supervisor import PlatformOptions, Supervisor

INTERRUPTED: Final = 130
"""The exit code of a program that Ctrl-C ended."""

Use = Callable[[Supervisor, PlatformDescription], Awaitable[int]]


async def run_platform(options: PlatformOptions, use: Use, *, interrupted: int) -> int:
    """Start a platform, use it, and stop it, whatever happens in between.

    The first Ctrl-C, SIGTERM or SIGHUP stops it in order, a second one at once. Returns what ``use`` returns, or
    ``interrupted`` after a signal.
    """
    supervisor = Supervisor(options)
    task = asyncio.current_task()
    assert task is not None
    _cancel_on_signals(task)
    try:
        return await _start_and_use(supervisor, use)
    except asyncio.CancelledError:
        say("\nstopping ...")
        return interrupted
    finally:
        await supervisor.stop()
        say(dim("everything is stopped"))


async def _start_and_use(supervisor: Supervisor, use: Use) -> int:
    began = time.monotonic()
    say("starting platform ", bold(supervisor.options.name), " ...")
    platform = await supervisor.start()
    say(process_table(platform))
    say(green(f"ready after {time.monotonic() - began:.1f} s"), dim(f"   logs: {platform.log_directory}"))
    watching = asyncio.ensure_future(supervisor.watch())
    using = asyncio.ensure_future(use(supervisor, platform))
    try:
        await asyncio.wait([watching, using], return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            await watching
        return await using
    finally:
        for task in (watching, using):
            task.cancel()
        await asyncio.wait([watching, using])


def _cancel_on_signals(task: asyncio.Task[object]) -> None:
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def stop(number: int) -> None:
        if received:
            # The guardian ends the processes and removes the directories once this process is gone.
            os._exit(INTERRUPTED)
        received.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
