"""Work that a cancelled task really stops, or really finishes."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The work ended early because it was told to."""


class StopFlag:
    """Given to the work, which calls ``check`` every few milliseconds."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Tell the work to stop."""
        self._event.set()

    def check(self) -> None:
        """Raises Stopped once the work was told to stop."""
        if self._event.is_set():
            raise Stopped


async def run_stoppable(work: Callable[[StopFlag], T]) -> T:
    """Run ``work`` in a thread. If cancelled, tell it to stop, and let the cancellation out when it has."""
    flag = StopFlag()
    thread = asyncio.ensure_future(asyncio.to_thread(work, flag))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        flag.set()
        while not thread.done():
            # A signal that is repeated ends the wait, and not the work.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([thread])
        if not thread.cancelled():
            thread.exception()  # Stopped, or what went wrong meanwhile: nobody wants to know any more
        raise


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end, and let a cancellation that came meanwhile out only then."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    result = task.result()
    if cancelled:
        raise asyncio.CancelledError
    return result
