"""What the auditor says once a campaign is over."""

import asyncio
import os
import sys
import time
from typing import Final

import asyncpg

from local_platform.console import say
from local_platform.description import PlatformDescription

REST_SECONDS: Final = 60
"""How long it may take until one preview more is made, and then the journal of their messages."""
_LOOK_SECONDS: Final = 1.0


async def check_books(platform: PlatformDescription) -> int:
    """Every invariant over a platform at rest, printed; returns the auditor's exit code."""
    await _previews_made(platform)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "auditor.main", "check", "--settled", "--patience", str(REST_SECONDS)),
        env={**os.environ, **platform.environments["auditor"]},
    )
    return await process.wait()


async def _previews_made(platform: PlatformDescription) -> None:
    """Wait for the previews, at a low priority behind the orders: as long as there are fewer from time to time."""
    connection = await asyncpg.connect(platform.postgres.superuser_dsn)
    try:
        fewest, since = None, time.monotonic()
        while time.monotonic() - since < REST_SECONDS:
            due = await connection.fetchval("SELECT count(*) FROM storage.previews WHERE due_at IS NOT NULL")
            if due == 0:
                return
            if fewest is None or due < fewest:
                fewest, since = due, time.monotonic()
            await asyncio.sleep(_LOOK_SECONDS)
        say(f"{fewest} previews are not made, and none was for {REST_SECONDS} s")
    finally:
        await connection.close()
