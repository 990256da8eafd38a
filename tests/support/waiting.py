"""Waiting for a condition instead of for time to pass."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.1


@overload
async def eventually(
    condition: Callable[[], Awaitable[T | None]], timeout: float = 10.0, what: str = "the condition"
) -> T: ...
@overload
async def eventually(condition: Callable[[], T | None], timeout: float = 10.0, what: str = "the condition") -> T: ...
async def eventually(condition: Callable[[], object], timeout: float = 10.0, what: str = "the condition") -> object:
    """Call ``condition`` (sync or async) until its result is truthy, and return that result.

    Fails after ``timeout`` seconds, naming ``what`` was waited for and what the condition said last. An AssertionError
    inside the condition counts as "not yet", so that a block of assertions can be a condition.
    """
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE_SECONDS
    last: object = None
    while True:
        try:
            outcome = condition()
            result = await outcome if inspect.isawaitable(outcome) else outcome
        except AssertionError as error:
            last = error
        else:
            if result:
                return result
            last = result
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not hold within {timeout:g} s; last seen: {last!r}")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
